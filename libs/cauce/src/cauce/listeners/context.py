"""What a listener may ask about the message it is handling, whatever carried it here."""

from collections.abc import Mapping

from msgspec import Struct

from cauce.events.envelope import Envelope
from cauce.events.event import Event

__all__ = ["Context"]


class Context(Struct, frozen=True, kw_only=True):
    """The circumstances of one call of one listener; the same type for every transport and for none."""

    envelope: Envelope
    channel: str = ""
    """Where it came from on the broker; empty for an event of this process."""
    attempt: int = 1
    headers: Mapping[str, str] = {}
    listener: str = ""
    replayed: bool = False
    """A person asked for this dead letter to be tried again."""

    @property
    def idempotency_key(self) -> str:
        """The same for every try of this listener on this event: for calls outside the database."""
        return f"{self.listener}:{self.envelope.id}"

    @property
    def event_id(self) -> str:
        return self.envelope.id

    @property
    def name(self) -> str:
        return self.envelope.name

    @property
    def source(self) -> str:
        """The service that published the event (the article's `service`)."""
        return self.envelope.source

    @staticmethod
    def of(event: Event, *, source: str = "test", channel: str = "") -> "Context":
        """A context made by hand, for calling a listener directly in a test."""
        envelope = Envelope.of(event, source=source)
        return Context(envelope=envelope, channel=channel)
