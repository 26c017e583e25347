"""Questions of people to a Redis or Valkey server, about what one prefix names there."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cauce.errors import TransportUnavailableError
from cauce.transports.redis.connection import RedisTroubleError
from cauce.transports.redis.pipeline import Command, RedisCommands, RedisRefusal
from cauce.transports.redis.replies import text
from cauce.transports.redis.stream_keys import StreamKeys

__all__ = ["RedisQueries", "just_before", "milliseconds", "moment"]

_EPOCH = datetime.fromtimestamp(0, UTC)
_LAST = (datetime(9999, 12, 30, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


class RedisQueries:
    """One server, one prefix. Raises TransportUnavailableError when it does not answer or does not permit it."""

    def __init__(self, commands: RedisCommands, *, address: str, prefix: str) -> None:
        self._commands = commands
        self.address = address
        self.keys = StreamKeys(prefix)

    async def ask(self, *commands: Command, patience_s: float = 0.0) -> list[Any]:
        """One answer each, refusals among them."""
        try:
            return await (await self._commands.pipeline()).ask(*commands, patience_s=patience_s)
        except RedisTroubleError as trouble:
            raise TransportUnavailableError(str(trouble)) from trouble

    async def need(self, *commands: Command) -> list[Any]:
        """One answer each; TransportUnavailableError for the first refusal."""
        answers = await self.ask(*commands)
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, RedisRefusal):
                raise self.refused(command, answer)
        return answers

    def refused(self, command: Command, refusal: RedisRefusal) -> TransportUnavailableError:
        return TransportUnavailableError(f"Redis at {self.address} answered {text(command[0])} with: {refusal}")

    async def now(self) -> datetime:
        """The server's clock."""
        ((seconds, microseconds),) = await self.need(("TIME",))
        return _EPOCH + timedelta(seconds=int(seconds), microseconds=int(microseconds))

    async def topic_names(self, kept: str = "groups") -> Sequence[str]:
        """Every topic of this prefix that has streams or a key of this name, found by looking through the keys."""
        found: set[str] = set()
        cursor = "0"
        while True:
            pattern = f"{self.keys.prefix}:{{*}}:*"
            ((following, keys),) = await self.need(("SCAN", cursor, "MATCH", pattern, "COUNT", "1000"))
            for key in map(text, keys):
                _, brace, rest = key.partition(":{")
                name, closing, what = rest.rpartition("}:")
                if brace and closing and (what.isdecimal() or what == kept):
                    found.add(name)
            cursor = text(following)
            if cursor == "0":
                return sorted(found)


def milliseconds(at: datetime) -> int:
    """A moment as the ids of entries count it."""
    return max(0, (at - _EPOCH) // timedelta(milliseconds=1))


def just_before(at: datetime) -> str:
    """The greatest id that is older: what was appended since then comes after it."""
    return f"{max(0, milliseconds(at) - 1)}-{2**64 - 1}"


def moment(milliseconds: int) -> datetime:
    """When an entry was appended, by the milliseconds of its id; the last moment there is, where a stranger chose an id
    beyond it."""
    return _EPOCH + timedelta(milliseconds=min(milliseconds, _LAST))
