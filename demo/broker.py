"""What the broker holds, read under its documented names (docs/reference/wire-formats.md) as anybody could read it."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

__all__ = ["Broker"]

LANES = 16


class Broker:
    """The Valkey of a running system."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    async def events(self, topic: str) -> list[str]:
        """The events that this topic holds, lane by lane, as CloudEvents JSON."""
        async with self._connected() as redis:
            lanes = [await redis.xrange(_stream(topic, lane)) for lane in range(LANES)]
        return [_json(entry) for entries in lanes for entry in entries]

    async def undelivered(self, topic: str) -> list[str]:
        """The events of this topic that were given to no consumer, as CloudEvents JSON."""
        found: list[str] = []
        async with self._connected() as redis:
            for stream in [_stream(topic, lane) for lane in range(LANES)]:
                for group in await redis.xinfo_groups(stream) if await redis.exists(stream) else ():
                    found += map(_json, await redis.xrange(stream, min=b"(" + group["last-delivered-id"]))
        return found

    async def blocked_reads(self) -> int:
        """How many clients wait in a read."""
        async with self._connected() as redis:
            return sum("b" in client["flags"] for client in await redis.client_list())

    def _connected(self) -> Any:
        """A client; its stubs leave the shape of answers open."""
        return Redis(
            host=self._environment["REDIS_HOST"],
            port=int(self._environment["REDIS_PORT"]),
            password=self._environment.get("REDIS_PASS"),
        )


def _stream(topic: str, lane: int) -> str:
    return f"cauce:{{{topic}}}:{lane}"


def _json(entry: tuple[bytes, Mapping[bytes, bytes]]) -> str:
    return entry[1][b"e"].decode()
