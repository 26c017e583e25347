"""asyncpg's connection: a COMMIT tells how it was answered, and takes events along.

asyncpg sends one statement at a time. What is carried goes out before it, as Bind and Execute without the Sync that
would make the server answer, so that both are one write and one trip; asyncpg reads the answers as those of COMMIT, and
keeps the last: the answer to COMMIT itself. Values travel as parameters, never inside of the statement's text, which
servers log. Names that asyncpg keeps private are used: a version that is not known here commits without it.
"""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import asyncpg

from cauce.errors import TransactionAbortedError
from cauce.stores.sql.driver_state import IN_FAILED_TRANSACTION
from cauce.stores.sql.events_with_commit import PARAMETER

__all__ = ["AsyncpgConnection", "is_supported"]

_KNOWN = "0.32."
_EXECUTE = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
"""The unnamed portal, all of its rows."""
_TEXT, _BINARY = 0, 1


def is_supported(version: str = asyncpg.__version__) -> bool:
    """Whether this asyncpg is as this module knows it."""
    return version.startswith(_KNOWN)


class AsyncpgConnection(asyncpg.Connection):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
    """`carry` leaves statements with the connection, and its COMMIT takes them along."""

    reads_outcome_of_commits = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.carried: list[tuple[str, Mapping[str, Any]]] = []
        self._prepared_here: dict[str, Any] = {}

    @property
    def carries(self) -> bool:
        return False  # its own COMMIT sees to it

    def carry(self, statement: str, values: Mapping[str, Any]) -> bool:
        """Whether the statement will be executed by the COMMIT of this transaction, in the same trip."""
        if not (is_supported() and self.is_in_transaction() and self._config.statement_cache_size):
            return False
        if self.get_settings().client_encoding != "UTF8":
            return False
        self.carried.append((statement, values))
        return True

    def drop_carried(self) -> None:
        self.carried.clear()

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's; a COMMIT that is not answered COMMIT raises TransactionAbortedError.

        One that fails, and a ROLLBACK that does, leave no transaction open: SQLAlchemy takes it for over.
        """
        if query not in ("COMMIT;", "ROLLBACK;"):
            return await super().execute(query, *args, timeout=timeout)
        if query == "ROLLBACK;":
            self.carried.clear()
        if self.carried:
            answer = await self.commit_with_carried()
        else:
            try:
                answer = await super().execute(query, timeout=timeout)
            except Exception:
                await self._leave_the_transaction()
                raise
        if answer != query[:-1]:
            raise TransactionAbortedError
        return answer

    async def commit_with_carried(self) -> str:
        """Execute what is carried, then COMMIT; the database's answer to that. An error leaves no transaction open."""
        carried, self.carried = self.carried, []
        try:
            messages = [await self._message(*one) for one in carried]
            return await self._commit_after(b"".join(messages))
        except Exception as error:  # whoever is cancelled gives the connection up instead
            self._prepared_here.clear()  # one of them may be gone
            await self._leave_the_transaction()
            if getattr(error, "sqlstate", None) == IN_FAILED_TRANSACTION:
                return "ROLLBACK"
            raise

    async def _leave_the_transaction(self) -> None:
        if self.is_closed() or not self.is_in_transaction():
            return
        try:
            await super().execute("ROLLBACK;")
        except Exception:  # somebody else's statement is under way on it, which is a mistake of theirs
            self.terminate()

    async def _commit_after(self, messages: bytes) -> str:
        commit = await self._prepared("COMMIT")
        protocol = cast("Any", self._protocol)
        before = _SentInTime(self._transport, messages)
        _, answer, _ = await protocol.bind_execute(commit._state, before, "", 0, True, None)
        return str(answer.decode())

    async def _message(self, statement: str, values: Mapping[str, Any]) -> bytes:
        spelled, names = _spelled(statement)
        prepared = await self._prepared(spelled)
        return _bind(prepared.get_name(), [values[name] for name in names]) + _EXECUTE

    async def _prepared(self, statement: str) -> Any:
        if (found := self._prepared_here.get(statement)) is None:
            found = self._prepared_here[statement] = await self.prepare(statement)
        return found


class _SentInTime(Sequence[Any]):
    """The arguments of COMMIT: none. asyncpg counts them when it has made sure that nobody else uses the connection, just
    before it writes; so what is to go out before is written then."""

    def __init__(self, transport: Any, messages: bytes) -> None:
        self._transport = transport
        self._messages = messages

    def __len__(self) -> int:
        messages, self._messages = self._messages, b""
        if messages:
            self._transport.write(messages)
        return 0

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)


@lru_cache(maxsize=32)
def _spelled(statement: str) -> tuple[str, Sequence[str]]:
    """With PostgreSQL's placeholders, and the names of the values in their order."""
    names: list[str] = list(dict.fromkeys(PARAMETER.findall(statement)))
    return PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", statement), names


def _bind(name: str, values: Sequence[Any]) -> bytes:
    """PostgreSQL's Bind message: these values to the prepared statement's parameters, in the unnamed portal."""
    formats = struct.pack(f"!h{len(values)}h", len(values), *(_format(value) for value in values))
    parameters = b"".join(_parameter(value) for value in values)
    body = b"\0%b\0%b%b%b\0\0" % (name.encode(), formats, struct.pack("!h", len(values)), parameters)
    return b"B" + struct.pack("!i", len(body) + 4) + body


def _format(value: Any) -> int:
    return _BINARY if isinstance(value, bytes) else _TEXT


def _parameter(value: Any) -> bytes:
    if value is None:
        return struct.pack("!i", -1)
    written = value if isinstance(value, bytes) else _text(value).encode()
    return struct.pack("!i", len(written)) + written


def _text(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return "{" + ",".join(_element(one) for one in cast("list[Any]", value)) + "}"


def _element(value: Any) -> str:
    """Of an array."""
    if value is None:
        return "NULL"
    text = f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
