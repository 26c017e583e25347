"""What surrounds an event: who said it, when, under which name, and in which conversation.

Listeners get it on request (a parameter of type Envelope or Context); it is never mixed into the payload. The
article's five attributes are here as `id`, `occurred_on`, `source` (its `service`), `name` and `payload`.
"""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from threading import RLock

from msgspec import Raw, Struct
from uuid_utils import uuid7

from cauce.events.event import Event, EventType, describe
from cauce.events.plain import key_text

__all__ = [
    "Clock",
    "Emission",
    "Envelope",
    "NewId",
    "current_emission",
    "current_envelope",
    "key_of",
    "new_id",
    "utc_now",
]

MAX_ID_LENGTH = 128

Clock = Callable[[], datetime]
NewId = Callable[[], str]


def new_id() -> str:
    """A fresh event id: UUIDv7 text, so ids made later sort later."""
    return str(uuid7())


def utc_now() -> datetime:
    """The time now, in UTC: what a service's `clock` is unless a test gives another."""
    return datetime.now(UTC)


class Envelope(Struct, frozen=True, kw_only=True, gc=False):
    """An event and its circumstances. Ids that were read from a wire are opaque text of at most 128 characters.

    Raises ValueError for an id (its own, correlation's or causation's) that is empty or longer, and for a time
    without a zone.
    """

    id: str
    source: str
    """The service that said it."""
    source_version: str | None = None
    """The version of that service's code, if it told."""
    name: str
    version: int
    occurred_on: datetime
    """Aware; taken when the event was published."""
    payload: Event | Raw
    """The event itself; `Raw` bytes only between a wire and the service that decodes them."""
    correlation_id: str
    """The conversation: the id of the first event of a chain, copied unchanged."""
    causation_id: str | None = None
    """The id of the event whose listener published this one; None for the first of a chain."""
    key: str | None = None
    key_seq: int | None = None
    incarnation: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None

    def __post_init__(self) -> None:
        own, conversation, cause = self.id, self.correlation_id, self.causation_id
        if not (
            0 < len(own) <= MAX_ID_LENGTH
            and (conversation is own or 0 < len(conversation) <= MAX_ID_LENGTH)
            and (cause is None or 0 < len(cause) <= MAX_ID_LENGTH)
        ):
            lengths = ", ".join(str(len(one)) for one in (own, conversation, cause) if one is not None)
            raise ValueError(f"ids have 1 to {MAX_ID_LENGTH} characters; these have {lengths}")
        if self.occurred_on.tzinfo is None:
            raise ValueError("occurred_on must be aware: datetime.now(UTC), not datetime.now()")

    @staticmethod
    def of(
        event: Event,
        *,
        source: str = "",
        source_version: str | None = None,
        cause: "Envelope | None" = None,
        id: str | None = None,  # noqa: A002  # the envelope's own word
        occurred_on: datetime | None = None,
    ) -> "Envelope":
        """The envelope of an event that happens now, because of `cause`. DefinitionError if it has no name.

        An integration event's declared source wins over `source`, which is that of the running service.
        """
        described = describe(type(event))
        own_id = id or str(uuid7())
        key = None if described.key is None else key_of(event, described)
        if cause is None:  # the usual case, in few words: each one more costs time
            return Envelope(
                id=own_id,
                source=described.source or source,
                source_version=source_version,
                name=described.name,
                version=described.version,
                occurred_on=occurred_on or datetime.now(UTC),
                payload=event,
                correlation_id=own_id,
                key=key,
            )
        return Envelope(
            id=own_id,
            source=described.source or source,
            source_version=source_version,
            name=described.name,
            version=described.version,
            occurred_on=occurred_on or datetime.now(UTC),
            payload=event,
            correlation_id=cause.correlation_id,
            causation_id=cause.id,
            key=key,
            traceparent=cause.traceparent,
            tracestate=cause.tracestate,
        )


def key_of(event: Event, described: EventType) -> str | None:
    """The text by which events are kept in order: the key field's value as the payload has it; None if there is none."""
    value = None if described.key is None else getattr(event, described.key)
    return value if value is None or type(value) is str else key_text(value)


_making = RLock()


class Emission(Struct, gc=False):
    """One publishing of one event: its envelope, made once and only when somebody needs it.

    An id and a time cost more than calling a listener, and most domain events are never asked for either. The
    emission is what a nested publish finds as its cause, in this task, in tasks started from it and in threads.
    """

    event: Event
    outer: "Emission | None" = None
    source: str = ""
    made: Envelope | None = None

    @property
    def envelope(self) -> Envelope:
        made = self.made
        return self._make() if made is None else made

    def stamp(self) -> None:
        """Make the envelope now: for whoever made this emission and has not shown it to anybody yet."""
        cause = None if self.outer is None else self.outer.envelope
        self.made = Envelope.of(self.event, source=self.source, cause=cause)

    def settle(self) -> None:
        """Know the cause by its ids only: events that cause each other for ever must not all be remembered."""
        self._make()
        self.outer = None

    def _make(self) -> Envelope:
        with _making:  # threads started by one listener share the cause: it must not get two ids
            if self.made is None:
                self.stamp()
            assert self.made is not None  # noqa: S101
            return self.made


current_emission: ContextVar[Emission | None] = ContextVar("cauce_emission", default=None)


def current_envelope() -> Envelope | None:
    """The envelope of the event being handled here, in this task or one started from it; None outside a listener."""
    emission = current_emission.get()
    return None if emission is None else emission.envelope
