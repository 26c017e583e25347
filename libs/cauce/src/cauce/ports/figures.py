"""The numbers of a service, as a store tells them and screens show them."""

from collections.abc import Mapping

from msgspec import Struct

from cauce.errors import CauceError

__all__ = [
    "Figures",
    "LeftBehind",
    "ListenerFigures",
    "MemberFigures",
    "NoTablesError",
    "OutboxFigures",
    "StuckFigures",
    "listener_of",
]


class NoTablesError(CauceError):
    """The database answers, and Cauce's tables are not there or not as this version knows them."""


class ListenerFigures(Struct, frozen=True, kw_only=True):
    """One listener. Every delivery it was given is `handled`, waits, is `dead` or was `discarded`, and never two."""

    listener: str
    handled: int
    failing: int
    """Failed at least once, and will be tried again."""
    next_try_in_s: float | None
    waiting: int
    """In the waiting room: failing, due, or behind an earlier event of the same key."""
    oldest_waiting_s: float | None
    parked_keys: int
    """Keys whose events wait for an earlier one that failed."""
    dead: int
    discarded: int
    known_for_s: float | None
    """Since the listener was first seen in a running service; None if it never was."""
    in_code: bool
    """Whether the service had it when it was started last."""
    paused_s: float | None = None
    """For how long an operator has paused it; None if it is not paused."""
    paused_because: str | None = None
    in_trouble: int = 0
    """Met trouble with the database, which costs no attempt, and will be tried again. None of them is `failing`."""
    in_trouble_for_s: float | None = None
    """For how long the one has been that has been in trouble longest."""
    trouble: str | None = None
    """What that one meets."""


class OutboxFigures(Struct, frozen=True, kw_only=True):
    """Events on their way to the broker, and those kept in case it forgets them. Each unsent one is `waiting`,
    `set_aside` or `behind`, and never two."""

    waiting: int
    """To be sent as soon as the broker takes them."""
    oldest_waiting_s: float | None
    set_aside: int
    """The broker will never take them: a person has to release or to discard them."""
    behind: int
    """Later events of a key of which one was set aside."""
    sent_kept: int
    oldest_sent_s: float | None
    kept_bytes: int
    """An estimate, from the size of the newest hundred."""


class LeftBehind(Struct, frozen=True, kw_only=True):
    """Waiting deliveries of an event for a listener, when the code has one of the two no more."""

    listener: str
    event: str | None
    count: int
    listener_in_code: bool


class StuckFigures(Struct, frozen=True, kw_only=True):
    """What waits and does not move until a person does something, beside dead letters, paused listeners, and what the
    broker will never take."""

    overdue: int
    """Deliveries that have been due for more than a minute, and nobody takes them."""
    postponed: Mapping[str, int]
    """By listener: deliveries that only a newer version of the service can read."""
    held: Mapping[str, int]
    """By listener: deliveries that nothing makes due, though no other event of their key is before them."""
    left_behind: tuple[LeftBehind, ...]
    unsent_elsewhere: Mapping[str, int]
    """By topic: unsent events of topics that the service does not send to."""


class MemberFigures(Struct, frozen=True, kw_only=True):
    """A process of the service that has a lease."""

    member: str
    lanes: int
    lease_ends_in_s: float


class Figures(Struct, frozen=True, kw_only=True):
    """A service at one moment of its database. Ages are seconds by the database's clock."""

    service: str
    database: str
    durable: bool | None
    """Whether the transport with which it was started last remembers events; None if it has none, or never said."""
    at: float
    incarnation: str
    listeners: tuple[ListenerFigures, ...]
    outbox: OutboxFigures
    stuck: StuckFigures
    lanes: int
    lanes_owned: int
    members: tuple[MemberFigures, ...]
    counted_since_s: float | None
    """How long ago the oldest delivery arrived that the inbox remembers."""

    @property
    def dead(self) -> int:
        return sum(one.dead for one in self.listeners)


def listener_of(consumer: str) -> str:
    """The listener's own name in `service/listener`; what reached no listener has only the service's."""
    service, slash, listener = consumer.partition("/")
    return listener if slash else service
