"""Events as they are published, read beside the groups: nobody's position is moved, nothing is acknowledged."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from cauce.errors import DecodeError, TransportUnavailableError
from cauce.formats.cloudevents import from_json
from cauce.ports.lanes import LANES, Lane
from cauce.ports.topics import Seen
from cauce.transports.redis.connection import RedisTroubleError
from cauce.transports.redis.pipeline import Command, RedisRefusal
from cauce.transports.redis.replies import entries_by_stream, field_of, named, order, text
from cauce.transports.redis.stream_keys import FIELD
from cauce.transports.redis.topics import BrokerView

__all__ = ["watch"]

_BLOCK_MS = 500
_COUNT = 200
_LOOK_ROUND_EVERY_S = 2.0
_RETRY_S = 1.0


async def watch(
    view: BrokerView,
    *,
    topics: Sequence[str],
    since_ms: int | None,
    follow: bool,
    trouble: Callable[[str | None], None],
) -> AsyncGenerator[Seen]:
    """Everything appended to these topics (to all of the prefix, if none is named) from `since_ms`, or from now on.

    In the order of the broker's clock, as far as it was there when we looked. With `follow` it goes on for ever and
    through outages, which `trouble` is told (None: it is over); without, it ends with what is there. Raises what the
    broker says to the first question.
    """
    positions = await _positions(view, topics, since_ms)
    loop = asyncio.get_running_loop()
    looked_at = loop.time()
    troubled = False
    while True:
        try:
            if not topics and loop.time() - looked_at >= _LOOK_ROUND_EVERY_S:
                looked_at = loop.time()
                for stream in _streams(view, await view.topic_names()):
                    positions.setdefault(stream, "0-0")  # new since we began, so all of it is
            found = await _read(view, positions, block=follow)
            if troubled:
                troubled = False
                trouble(None)
        except (RedisTroubleError, TransportUnavailableError) as error:
            if not follow:
                raise
            if not troubled:
                troubled = True
                trouble(str(error))
            await asyncio.sleep(_RETRY_S)
            continue
        for seen in found:
            positions[view.keys.stream(seen.topic, seen.lane)] = seen.entry
            yield seen
        if not found and not follow:
            return


async def _positions(view: BrokerView, topics: Sequence[str], since_ms: int | None) -> dict[str, str]:
    """For every stream the id to begin after."""
    streams = _streams(view, topics or await view.topic_names())
    if since_ms is not None:
        return dict.fromkeys(streams, f"{max(0, since_ms - 1)}-{2**64 - 1}")
    if not streams:
        return {}
    answers = await view.ask(*(("XINFO", "STREAM", stream) for stream in streams))
    return {
        stream: "0-0" if isinstance(answer, RedisRefusal) else text(named(answer)["last-generated-id"])
        for stream, answer in zip(streams, answers, strict=True)
    }


def _streams(view: BrokerView, topics: Sequence[str]) -> list[str]:
    return [view.keys.stream(topic, Lane(lane)) for topic in topics for lane in range(LANES)]


async def _read(view: BrokerView, positions: dict[str, str], *, block: bool) -> list[Seen]:
    if not positions:
        await asyncio.sleep(_BLOCK_MS / 1000 if block else 0)
        return []
    wait: Command = ("BLOCK", str(_BLOCK_MS)) if block else ()
    command: Command = ("XREAD", "COUNT", str(_COUNT), *wait, "STREAMS", *positions, *positions.values())
    (answer,) = await view.ask(command, patience_s=_BLOCK_MS / 1000)
    if isinstance(answer, RedisRefusal):
        raise TransportUnavailableError(f"Redis at {view.address} answered XREAD with: {answer}")
    found = [
        _seen(text(stream), text(entry), fields)
        for stream, entries in entries_by_stream(answer)
        for entry, fields in entries
    ]
    return sorted(found, key=lambda one: order(one.entry))


def _seen(stream: str, entry: str, fields: object) -> Seen:
    name, _, lane = stream.rpartition("}:")
    raw = field_of(fields, FIELD) or b""
    envelope, problem = None, None
    try:
        envelope = from_json(raw)
    except DecodeError as error:
        problem = f"{error.path}: {error.expectation}"
    return Seen(
        topic=name.partition(":{")[2], lane=Lane(int(lane)), entry=entry, raw=raw, envelope=envelope, problem=problem
    )
