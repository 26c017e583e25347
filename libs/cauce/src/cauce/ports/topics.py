"""What a broker holds of a system, seen from outside: topics, groups, entries."""

from dataclasses import dataclass
from typing import Any, cast

import msgspec
from msgspec import Struct

from cauce.events.envelope import Envelope
from cauce.ports.lanes import Lane
from cauce.transports.redis.replies import order

__all__ = ["Group", "Seen", "Topic"]


class Group(Struct, frozen=True, kw_only=True):
    """A service that hears a topic. Sums over the topic's sixteen lanes."""

    name: str
    registered: bool
    """Whether trimming waits for it."""
    lanes: int
    """On how many of the streams that exist it has its group."""
    lag: int
    """Entries it was never given."""
    pending: int
    """Entries it was given and has not acknowledged."""
    oldest_waiting_s: float | None
    """Age of the oldest entry of either kind."""


class Topic(Struct, frozen=True, kw_only=True):
    """What one service has published, as far as the broker still holds it."""

    name: str
    streams: int
    entries: int
    oldest_s: float | None
    newest_s: float | None
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An entry of a topic. `envelope` is None if it is no event, and then `problem` says why."""

    topic: str
    lane: Lane
    entry: str
    raw: bytes
    envelope: Envelope | None
    problem: str | None

    @property
    def at_ms(self) -> int:
        """When the broker took it."""
        return order(self.entry)[0]

    @property
    def payload(self) -> Any:
        """The decoded payload; None if it is no event."""
        return None if self.envelope is None else msgspec.json.decode(cast("msgspec.Raw", self.envelope.payload))
