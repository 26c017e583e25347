"""The entries of one key, deleted from a topic's stream as far as no group needs them any more."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from cauce.errors import DecodeError
from cauce.formats.cloudevents import from_json
from cauce.ports.lanes import Lane, lane_of_key
from cauce.ports.topics import ErasedEntries
from cauce.transports.redis.pipeline import Command, RedisRefusal
from cauce.transports.redis.queries import RedisQueries
from cauce.transports.redis.replies import field_of, named, order, text, texts
from cauce.transports.redis.stream_keys import FIELD

__all__ = ["erase"]

_PAGE = 500


async def erase(queries: RedisQueries, topic: str, key: str, *, dry_run: bool) -> ErasedEntries:
    """As `Inspectable.erase`. Entries only move towards acknowledged, so what is found so stays so."""
    lane = lane_of_key(key)
    stream = queries.keys.stream(topic, lane)
    registry, infos = await queries.ask(("HGETALL", queries.keys.groups(topic)), ("XINFO", "GROUPS", stream))
    if isinstance(infos, RedisRefusal):
        return ErasedEntries(topic=topic, erased=0, unacknowledged=0)  # no stream, so no entry
    delivered = {text(named(one)["name"]): order(named(one)["last-delivered-id"]) for one in infos}
    registered: set[str] = set() if isinstance(registry, RedisRefusal) else set(texts(registry))
    erased = unacknowledged = 0
    async for entry in _entries_of(queries, topic, lane, key):
        needed = bool(registered - delivered.keys()) or any(order(entry) > last for last in delivered.values())
        if not needed:
            pending: Sequence[Command] = [("XPENDING", stream, group, entry, entry, "1") for group in delivered]
            needed = any(await queries.need(*pending)) if pending else False
        if needed:
            unacknowledged += 1
            continue
        if not dry_run:
            await queries.need(("XDEL", stream, entry))
        erased += 1
    return ErasedEntries(topic=topic, erased=erased, unacknowledged=unacknowledged)


async def _entries_of(queries: RedisQueries, topic: str, lane: Lane, key: str) -> AsyncGenerator[str]:
    """Their ids, oldest first."""
    begin = "-"
    while True:
        (page,) = await queries.need(("XRANGE", queries.keys.stream(topic, lane), begin, "+", "COUNT", str(_PAGE)))
        entries: Sequence[Any] = page
        for entry, fields in entries:
            if _key_of(field_of(fields, FIELD)) == key:
                yield text(entry)
        if len(entries) < _PAGE:
            return
        begin = f"({text(entries[-1][0])}"


def _key_of(message: bytes | None) -> str | None:
    try:
        return from_json(message or b"").key
    except DecodeError:
        return None
