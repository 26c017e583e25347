"""The port beneath integration events: what a service needs of a broker.

One promise for every adapter: `publish` returns once the broker has taken the batch, in order; `run` delivers
until it is cancelled and heals itself. What differs (does the broker remember?) is said by `durable`.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Literal, NewType, Protocol, runtime_checkable

from msgspec import Struct, field

from cauce.events.envelope import Envelope
from cauce.ports.lanes import Lane

__all__ = [
    "Broker",
    "BrokerId",
    "ChecksEvents",
    "Deliver",
    "Delivery",
    "DurableTransport",
    "LanesOwned",
    "RegistersDatabases",
    "State",
    "Status",
    "Subscription",
    "SupportsHealth",
    "Tail",
    "Transport",
    "Verdict",
]

BrokerId = NewType("BrokerId", str)


class Subscription(Struct, frozen=True, kw_only=True):
    """What a service wants to hear: exact names (canonical and earlier ones) and dotted patterns."""

    names: frozenset[str]
    patterns: tuple[str, ...] = ()
    topics: frozenset[str] = frozenset()
    """The publishing services whose events these are; a durable transport keeps one topic for each."""

    def __bool__(self) -> bool:
        return bool(self.names or self.patterns)


async def _nothing_to_acknowledge() -> None:
    return


def _nothing_to_release() -> None:
    return


class Delivery(Struct, frozen=True, kw_only=True):
    """One message as it came. `envelope` is None when it is no event, and then `problem` says why."""

    channel: str
    raw: bytes
    envelope: Envelope | None
    problem: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    redelivered: bool = False
    """It was given to a process of this service before, and what became of it is not known."""
    age_s: float = 0.0
    """Of a redelivered one: how long the broker has had it, by the broker's own clock."""
    ack: Callable[[], Awaitable[None]] = _nothing_to_acknowledge
    """To be awaited once the message is handled, also when a listener failed."""
    release: Callable[[], None] = _nothing_to_release
    """Instead of `ack`, when it could neither be handled nor put aside: a durable transport delivers it again soon."""
    lane: Lane | None = None
    """Of a durable transport: the lane it came by."""
    tenure: int | None = None
    """Of a durable transport: what `LanesOwned` said of the lane when its reading began. If it says something else now,
    the lane was lost meanwhile, and this delivery is void: it comes again, and what was read before it comes first."""
    foreign: bool = False
    """It is the event of another service than the one whose topic it came by: `envelope` is None, `problem` says whose."""
    lost: bool = False
    """The broker has the entry's id and no longer its content. `raw` is empty; to be counted, and acknowledged."""


Deliver = Callable[[Delivery], Awaitable[None]]
"""Returns once the service's bounded queue has taken the delivery: waiting here is the back-pressure."""


class Status(Protocol):
    """Where a transport reports how it is; readiness and the log are made from it."""

    def up(self) -> None: ...
    def down(self, reason: str, *, retry_in_s: float) -> None: ...


class Broker(Protocol):
    """What every transport says about itself."""

    @property
    def name(self) -> str:
        """What people call the broker: `redis`."""
        ...

    @property
    def durable(self) -> bool:
        """Whether an event that was taken outlives the processes that use the broker."""
        ...

    async def close(self) -> None:
        """Give the connections back. Safe to call twice, and after a loop was cancelled."""
        ...


class Transport(Broker, Protocol):
    """Moves envelopes between processes at most once: what nobody hears in that moment is gone."""

    async def publish(self, lane: Lane, batch: Sequence[Envelope]) -> Sequence[BrokerId]:
        """Return once the broker has taken the whole batch, in this order.

        Raises TransportUnavailableError when that is not confirmed within the adapter's own limit: the broker
        may have taken all of it or none.
        """
        ...

    async def run(self, subscription: Subscription, deliver: Deliver, status: Status) -> None:
        """Deliver until cancelled: connect, subscribe, report `up` once the broker has acknowledged everything.

        Trouble with the broker is reported as `down` and retried for ever; only bad configuration raises.
        """
        ...


@runtime_checkable
class ChecksEvents(Protocol):
    """A transport that has a wire format of its own, with narrower limits than a CloudEvent's."""

    def check(self, envelope: Envelope, message: bytes) -> None:
        """Raise PublishError for an event that `publish` would refuse. Asked when it is published, before anything is
        written. `message`: the same event as a CloudEvent, which was checked before.
        """
        ...


class Tail(Struct, frozen=True, kw_only=True):
    """What the broker remembers of one lane of a topic."""

    server: str
    """Changes when the server was restarted or another one took over."""
    lost_from: BrokerId | None
    """The oldest of the ids asked about that should be there and is not; None if nothing is missing."""


@runtime_checkable
class DurableTransport(Broker, Protocol):
    """A broker that remembers: a topic per publishing service, sixteen ordered lanes in each."""

    async def append(self, topic: str, lane: Lane, messages: Sequence[bytes]) -> Sequence[BrokerId]:
        """Return the broker's ids once it holds the whole batch, in this order: all of it or none.

        Raises TransportUnavailableError when that is not confirmed: the broker may hold it, so the tail has to be
        verified and the batch appended again; the inbox drops the copies. For whoever once asked for the lane's tail:
        TailUnverifiedError, with nothing appended, if the broker may have forgotten something since. PublishError,
        with nothing appended, for a message that is larger than MAX_MESSAGE_BYTES.
        """
        ...

    async def tail(self, topic: str, lane: Lane, sent: Sequence[BrokerId]) -> Tail:
        """Whether the broker still holds what it had confirmed. `sent`: the newest ids, oldest first.

        What was trimmed on purpose is not missing. Raises TransportUnavailableError.
        """
        ...

    async def doubtful(self, streams: Collection[tuple[str, Lane]], *, kept_s: float) -> Collection[tuple[str, Lane]]:
        """Which of these may not hold what was confirmed last: their `tail` has to be asked for. Asks the broker, if it has
        not answered anything lately; the ends of the streams have been compared within `kept_s`.

        For a service that has nothing to send. Raises TransportUnavailableError.
        """
        ...

    async def now(self, topic: str) -> BrokerId:
        """The place to begin after for a group that wants what comes from now on. Raises TransportUnavailableError."""
        ...

    async def consume(
        self,
        subscription: Subscription,
        deliver: Deliver,
        status: Status,
        *,
        group: str,
        lanes: "LanesOwned",
        since: Mapping[str, BrokerId],
    ) -> None:
        """Deliver the entries of the lanes owned, until cancelled, in order inside a lane.

        First what this lane's earlier owner was given and did not acknowledge (`redelivered`), then new ones. The
        group is made where it is missing, also when the broker forgot it, at `since` (the id to begin after, by topic;
        from the beginning where it is not said). A lane that is no longer owned gets no more. Trouble with the broker
        is reported as `down` and retried for ever; deliveries taken before may be acknowledged afterwards too, also
        when this has been cancelled.
        """
        ...

    async def trim(self, topic: str, lane: Lane, *, older_than_s: float) -> int:
        """Drop entries that every registered group has acknowledged and that are older; returns how many."""
        ...


State = Literal["good", "weak", "bad", "unknown"]
"""`weak`: it works, and something can be lost that need not be. `bad`: it must not be run like this. `unknown`: we
were not permitted to look."""


class Verdict(Struct, frozen=True):
    """`subject` is what was looked at, `fact` what was seen, `fix` one command or setting; empty when all is well.
    `refused`: a service does not start beside this."""

    subject: str
    state: State
    fact: str
    fix: str = ""
    refused: bool = False


@runtime_checkable
class SupportsHealth(Protocol):
    """A broker that tells how well it keeps what it has confirmed."""

    async def health(self) -> Sequence[Verdict]:
        """What can be seen, good and bad; what may not be asked is `unknown`. Raises TransportUnavailableError."""
        ...


@runtime_checkable
class RegistersDatabases(Protocol):
    """A durable transport that notes whose database a group works with, so that two environments of one name which
    share a broker by mistake are told apart. Without it, each of them is given a part of the events."""

    async def register_database(self, topics: Collection[str], group: str, database: str) -> Mapping[str, str]:
        """Note in each of these topics that `group` is the service with this database, where nothing is noted yet.

        Returns, by topic, what is noted instead of it: that stays, and nothing is noted elsewhere if it was found
        before. A group that is forgotten is forgotten with it. Raises TransportUnavailableError.
        """
        ...


LanesOwned = Callable[[], Mapping[Lane, int]]
"""The lanes this process owns now; asked before every read. The number of a lane changes whenever it was lost, however
shortly: then what was delivered of it is forgotten, and read again from the oldest that is not acknowledged."""
