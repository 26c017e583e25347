"""psycopg's connection with fewer trips: BEGIN goes out with the first statement, events with COMMIT.

Statements that go out together are sent in libpq's pipeline mode, all in one write, and each is answered on its own: so
the outcome of a COMMIT is read from its own answer. Some names of psycopg that it keeps private are used (pyproject.toml
pins its versions); `is_supported` says whether all of them are there.
"""
# pyright: reportPrivateUsage=false

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache, partial
from inspect import signature
from typing import Any, cast

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Pipeline, errors, generators
from psycopg._preparing import Prepare, PrepareManager
from psycopg._queries import PostgresQuery
from psycopg.abc import Params, Query
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus

from cauce.stores.sql.events_with_commit import PARAMETER

__all__ = ["PsycopgConnection", "is_supported"]

_Answers = list[list[Any]]
"""libpq's results, by command."""
_Send = Callable[[], None]
_TAKE_BEGIN_ALONG = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "MERGE")
"""What other statements do to a pipeline (COPY) or to a transaction (SET TRANSACTION) is not ours to find out."""
_USED = {
    AsyncConnection: {"_start_query": (), "_get_tx_start_command": (), "wait": ("gen",)},
    AsyncCursor: {
        "_execute_gen": ("query", "params", "prepare", "binary"),
        "_maybe_prepare_gen": ("pgq", "prepare", "binary"),
        "_check_results": ("results",),
        "_set_results": ("results",),
    },
    PostgresQuery: {"convert": ("query", "vars")},
    PrepareManager: {
        "get": ("query", "prepare"),
        "maybe_add_to_cache": ("query", "prep", "name"),
        "validate": ("key", "prep", "name", "results"),
    },
}
"""Names of psycopg's own that are called or replaced here, and the parameters that they are given."""


def is_supported(used: Mapping[type, Mapping[str, Sequence[str]]] = _USED) -> bool:
    """Whether this psycopg, and the libpq under it, are as this module knows them."""
    return Pipeline.is_supported() and all(
        callable(method := getattr(owner, name, None)) and {*parameters} <= {*signature(method).parameters}
        for owner, methods in used.items()
        for name, parameters in methods.items()
    )


class _Cursor(AsyncCursor[Any]):
    """A cursor whose statement takes along the BEGIN that it needs."""

    def _execute_gen(
        self, query: Query, params: Params | None = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Generator[Any, Any, None]:
        connection = cast("PsycopgConnection", self._conn)
        connection.begin_may_wait = _takes_begin_along(query, params)
        try:
            yield from super()._execute_gen(query, params, prepare=prepare, binary=binary)
        finally:
            connection.begin_may_wait = False
            connection.owed_begin = None

    def _maybe_prepare_gen(
        self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Generator[Any, Any, None]:
        connection = cast("PsycopgConnection", self._conn)
        begin, connection.owed_begin = connection.owed_begin, None
        if begin is None:
            yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
            return
        self._query = pgq
        written = self.format if binary is None else Format(binary)
        statement = _Statement(connection, pgq, prepare=prepare, result_format=written)
        answers = yield from connection.in_one_trip([connection.command(begin), *statement.commands])
        statement.remember(answers[1:])
        connection.raise_for_failed(answers)
        self._check_results(answers[-1])
        self._set_results(answers[-1])


def _takes_begin_along(query: Query, params: Params | None) -> bool:
    if not isinstance(query, str) or (not params and ";" in query):  # several statements go out by the simple protocol
        return False
    return query[:32].lstrip().upper().startswith(_TAKE_BEGIN_ALONG)


@lru_cache(maxsize=32)
def _spelled(statement: str) -> str:
    """With psycopg's placeholders."""
    return PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%"))


class _Statement:
    """One statement of several that go out together, prepared as psycopg would have prepared it."""

    def __init__(
        self, connection: AsyncConnection[Any], pgq: PostgresQuery, *, prepare: bool | None, result_format: Format
    ) -> None:
        pgconn = connection.pgconn
        self._manager = connection._prepared
        self._pgq = pgq
        self._prepare, self._name = connection._prepared.get(pgq, prepare)
        self.commands: list[_Send] = []
        if self._prepare is Prepare.SHOULD:
            self.commands.append(partial(pgconn.send_prepare, self._name, pgq.query, param_types=pgq.types))
        if self._prepare is Prepare.NO:
            send = partial(pgconn.send_query_params, pgq.query, pgq.params, param_types=pgq.types)
        else:
            send = partial(pgconn.send_query_prepared, self._name, pgq.params)
        self.commands.append(partial(send, param_formats=pgq.formats, result_format=result_format))

    def remember(self, answers: _Answers) -> None:
        """By the answers to its commands: what is prepared now, and what is not."""
        if self._prepare is Prepare.SHOULD and not (answers[0] and answers[0][0].status == ExecStatus.COMMAND_OK):
            return
        key = self._manager.maybe_add_to_cache(self._pgq, self._prepare, self._name)
        if key is not None:
            self._manager.validate(key, self._prepare, self._name, answers[-1])


class PsycopgConnection(AsyncConnection[Any]):
    """`carry` leaves statements with the connection, and its COMMIT takes them along."""

    begin_may_wait = False
    owed_begin: bytes | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cursor_factory = _Cursor
        self.carried: list[tuple[str, Mapping[str, Any]]] = []

    @property
    def carries(self) -> bool:
        return bool(self.carried)

    def carry(self, statement: str, values: Mapping[str, Any]) -> bool:
        """Whether the statement will be executed by the COMMIT of this transaction, in the same trip."""
        if self._autocommit or self._tpc or self._pipeline:
            return False
        self.carried.append((statement, values))
        return True

    def drop_carried(self) -> None:
        self.carried.clear()

    async def commit(self) -> None:
        if self.carried and (answer := await self.commit_with_carried()) != "COMMIT":
            raise errors.InFailedSqlTransaction(f"COMMIT was answered {answer}")
        await super().commit()

    async def rollback(self) -> None:
        self.carried.clear()
        if self.pgconn.transaction_status != TransactionStatus.IDLE:  # the pool rolls back whatever it gets back
            await super().rollback()

    async def commit_with_carried(self) -> str:
        """Execute what is carried, then COMMIT; the database's answer to that. An error leaves no transaction open."""
        carried, self.carried = self.carried, []
        try:
            async with self.lock:
                return await self.wait(self._commit_with_gen(carried))
        except Exception:  # whoever is cancelled gives the connection up instead
            await self._leave_the_transaction()
            raise

    async def _leave_the_transaction(self) -> None:
        if self.pgconn.status == ConnStatus.OK and self.pgconn.transaction_status != TransactionStatus.IDLE:
            try:
                await self.rollback()
            except psycopg.Error:
                await self.close()

    def _commit_with_gen(self, carried: Sequence[tuple[str, Mapping[str, Any]]]) -> Generator[Any, Any, str]:
        idle = self.pgconn.transaction_status == TransactionStatus.IDLE
        begin = [self.command(self._get_tx_start_command())] if idle else []
        statements = [self._statement(*one) for one in carried]
        commands = [command for statement in statements for command in statement.commands]
        answers = yield from self.in_one_trip([*begin, *commands, self.command(b"COMMIT")])
        at = len(begin)
        for statement in statements:
            statement.remember(answers[at : at + len(statement.commands)])
            at += len(statement.commands)
        self.raise_for_failed(answers)
        return str(answers[-1][0].command_status.decode())

    def _statement(self, statement: str, values: Mapping[str, Any]) -> _Statement:
        pgq = PostgresQuery(Transformer(self))
        pgq.convert(cast("Query", _spelled(statement)), values)
        return _Statement(self, pgq, prepare=True, result_format=Format.TEXT)

    def command(self, words: bytes) -> _Send:
        return partial(self.pgconn.send_query_params, words, None)

    def in_one_trip(self, commands: Sequence[_Send]) -> Generator[Any, Any, _Answers]:
        """Send all of them in one write; the answers to each. A connection that is left in the middle of it is closed."""
        pgconn, answers = self.pgconn, list[list[Any]]()
        pgconn.enter_pipeline_mode()
        try:
            for send in commands:
                send()
            pgconn.pipeline_sync()
            yield from generators.send(pgconn)
            for _ in commands:
                answers.append((yield from generators.fetch_many(pgconn)))
            yield from generators.fetch_many(pgconn)  # the sync's own
            pgconn.exit_pipeline_mode()
        except BaseException:
            pgconn.finish()
            self.raise_for_failed(answers)  # the server said why before it hung up
            raise
        return answers

    def raise_for_failed(self, answers: _Answers) -> None:
        for one in (one for results in answers for one in results):
            if one.status == ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(one, encoding=self.info.encoding)

    def _start_query(self) -> Generator[Any, Any, None]:
        idle = not self._autocommit and self.pgconn.transaction_status == TransactionStatus.IDLE
        if self.begin_may_wait and idle and not self._pipeline:
            self.owed_begin = self._get_tx_start_command()
            return
        yield from super()._start_query()
