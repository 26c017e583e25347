"""What a service listens to durably: topics, event classes and listeners. Fixed while the service runs."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from cauce.events.event import Event
from cauce.listeners.identities import Identities
from cauce.listeners.listener import Listener
from cauce.ports.inbox import Known
from cauce.ports.transport import Subscription

__all__ = ["Listening"]


class Listening(Struct, frozen=True, kw_only=True):
    """The subscription of `service`, which is the name of its consumer group, and what handles each event."""

    service: str
    subscription: Subscription
    starts: Mapping[str, Literal["retained", "now"]]
    """Where a new subscription to a topic begins."""
    sends_to: Sequence[str]
    """The topics that this service sends to: its own, and those of others into which its bridge puts events."""
    types: Mapping[str, type[Event]]
    """Event classes by every name they are accepted under."""
    listeners: Mapping[type[Event], Sequence[Listener]]
    """The listeners of integration events."""
    identities: Identities
    """The consumer names of every listener, those of durable domain events too."""

    @property
    def by_consumer(self) -> Mapping[str, Listener]:
        """Every listener by each of its consumer names."""
        return self.identities.by_consumer

    @property
    def known(self) -> Known:
        """What can be handled here of what waits."""
        return Known(consumers=self.by_consumer.keys(), names=self.types.keys())
