"""Events as they are published, read beside the groups: no position moves, nothing is acknowledged."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime

from cauce.errors import DecodeError, TransportUnavailableError
from cauce.formats.anybodys_json import payload_of
from cauce.formats.cloudevents import from_json
from cauce.ports.lanes import LANES, Lane
from cauce.ports.topics import Seen
from cauce.transports.redis.pipeline import Command, RedisRefusal
from cauce.transports.redis.queries import RedisQueries, just_before, moment
from cauce.transports.redis.replies import entries_by_stream, field_of, named, order, text
from cauce.transports.redis.stream_keys import FIELD

__all__ = ["watch"]

_BLOCK_MS = 500
_COUNT = 200
_LIST_TOPICS_EVERY_S = 2.0
_RETRY_S = 1.0


async def watch(
    queries: RedisQueries,
    topics: Sequence[str],
    *,
    since: datetime | None,
    follow: bool,
    trouble: Callable[[str | None], None],
) -> AsyncGenerator[Seen]:
    """As `Inspectable.watch`. Raises TransportUnavailableError for the first question only, if it follows.

    A key that has a stream's name and is none is reported once, as an entry without an id; the others are read on.
    """
    positions = await _positions(queries, topics, since)
    loop = asyncio.get_running_loop()
    listed_at = loop.time()
    troubled = False
    no_streams: set[str] = set()
    while True:
        try:
            if not topics and loop.time() - listed_at >= _LIST_TOPICS_EVERY_S:
                listed_at = loop.time()
                for stream in _streams(queries, await queries.topic_names()):
                    positions.setdefault(stream, "0-0")  # new since we began, so all of it is
            found = await _read(queries, positions, block=follow)
            if troubled:
                troubled = False
                trouble(None)
        except TransportUnavailableError as error:
            if not follow:
                raise
            if not troubled:
                troubled = True
                trouble(str(error))
            await asyncio.sleep(_RETRY_S)
            continue
        for seen in found:
            stream = queries.keys.stream(seen.topic, seen.lane)
            if seen.entry:
                positions[stream] = seen.entry
            elif stream in no_streams:
                continue
            else:
                no_streams.add(stream)
            yield seen
        if not found and not follow:
            return


async def _positions(queries: RedisQueries, topics: Sequence[str], since: datetime | None) -> dict[str, str]:
    """For every stream the id to begin after."""
    streams = _streams(queries, topics or await queries.topic_names())
    if since is not None:
        return dict.fromkeys(streams, just_before(since))
    if not streams:
        return {}
    answers = await queries.ask(*(("XINFO", "STREAM", stream) for stream in streams))
    return {
        stream: "0-0" if isinstance(answer, RedisRefusal) else text(named(answer)["last-generated-id"])
        for stream, answer in zip(streams, answers, strict=True)
    }


def _streams(queries: RedisQueries, topics: Sequence[str]) -> list[str]:
    return [queries.keys.stream(topic, Lane(lane)) for topic in topics for lane in range(LANES)]


async def _read(queries: RedisQueries, positions: dict[str, str], *, block: bool) -> list[Seen]:
    if not positions:
        await asyncio.sleep(_BLOCK_MS / 1000 if block else 0)
        return []
    wait: Command = ("BLOCK", str(_BLOCK_MS)) if block else ()
    command: Command = ("XREAD", "COUNT", str(_COUNT), *wait, "STREAMS", *positions, *positions.values())
    (answer,) = await queries.ask(command, patience_s=_BLOCK_MS / 1000)
    if isinstance(answer, RedisRefusal):
        if answer.code == "WRONGTYPE" and (foreign := await _without_streams(queries, positions)):
            return foreign
        raise queries.refused(command, answer)
    found = [
        _seen(text(stream), text(entry), fields)
        for stream, entries in entries_by_stream(answer)
        for entry, fields in entries
    ]
    return sorted(found, key=lambda one: order(one.entry))


async def _without_streams(queries: RedisQueries, positions: dict[str, str]) -> list[Seen]:
    """Leave out the keys that hold something else: Redis refuses the whole question for one of them."""
    keys = list(positions)
    kinds = [text(kind) for kind in await queries.need(*(("TYPE", key) for key in keys))]
    found: list[Seen] = []
    for key, kind in zip(keys, kinds, strict=True):
        if kind not in ("stream", "none"):
            del positions[key]
            topic, lane = _place(key)
            problem = (
                f"the key {key} holds a {kind}, where a stream belongs; find out who wrote it, and rename or delete it"
            )
            at = await queries.now()
            found.append(
                Seen(topic=topic, lane=lane, entry="", at=at, raw=b"", envelope=None, problem=problem, payload=None)
            )
    return found


def _place(stream: str) -> tuple[str, Lane]:
    name, _, lane = stream.rpartition("}:")
    return name.partition(":{")[2], Lane(int(lane))


def _seen(stream: str, entry: str, fields: object) -> Seen:
    topic, lane = _place(stream)
    raw = field_of(fields, FIELD) or b""
    envelope, problem = None, None
    try:
        envelope = from_json(raw)
    except DecodeError as error:
        problem = f"{error.path}: {error.expectation}"
    return Seen(
        topic=topic,
        lane=lane,
        entry=entry,
        at=moment(order(entry)[0]),
        raw=raw,
        envelope=envelope,
        problem=problem,
        payload=None if envelope is None else payload_of(envelope),
    )
