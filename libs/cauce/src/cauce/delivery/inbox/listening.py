"""What a service listens to durably: topics, event classes and listeners. Fixed while the service runs."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from cauce.events.event import Event
from cauce.listeners.listener import Listener
from cauce.ports.transport import Subscription

__all__ = ["Listening"]


class Listening(Struct, frozen=True, kw_only=True):
    """The subscription of `service`, which is the name of its consumer group, and what handles each event."""

    service: str
    subscription: Subscription
    starts: Mapping[str, Literal["retained", "now"]]
    """Where a new subscription to a topic begins."""
    adopted: Sequence[str]
    """Topics of others into which a bridge of this service puts events."""
    types: Mapping[str, type[Event]]
    """Event classes by every name they are accepted under."""
    listeners: Mapping[type[Event], Sequence[Listener]]
    """The listeners of integration events."""
    by_consumer: Mapping[str, Listener]
    """Every listener by its consumer name, those of durable domain events too."""
