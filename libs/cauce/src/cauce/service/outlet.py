"""Where published events go: the rows their transaction writes, and what a run takes on after it; refused when nothing runs."""

from collections.abc import Sequence

from cauce.delivery.durable import DurableDelivery
from cauce.delivery.volatile.queue import AfterCommitQueue
from cauce.errors import PublishError
from cauce.events.event import Event, IntegrationEvent
from cauce.ports.lanes import lane_of
from cauce.ports.outbox import Outgoing
from cauce.ports.store import Outbound
from cauce.publishing.pending import AfterCommit, Pending, ToSend
from cauce.service.wiring import Wiring

__all__ = ["NotRunning", "RunOutlet", "outbox_rows"]


class NotRunning:
    """The outlet of a service that was never started: nothing that waits for the commit may be published."""

    def __init__(self, service: str) -> None:
        self._service = service

    def check(self, event_type: type[Event], /) -> None:
        raise _not_running(self._service, event_type)

    def committed(self, pending: Sequence[Pending], /) -> None:
        """Nothing to do: `check` let nothing pass that has anybody waiting for it."""


class RunOutlet:
    """The outlet of one run. Without `durable`, what follows a commit waits in `queue`, in memory."""

    def __init__(self, service: str, *, queue: AfterCommitQueue, durable: DurableDelivery | None) -> None:
        self._service = service
        self._queue = queue
        self._durable = durable

    def check(self, event_type: type[Event], /) -> None:
        """PublishError if what waits for the commit would wait for ever; OutboxFullError if too much waits already."""
        if not self._queue.is_open:
            raise _not_running(self._service, event_type)
        if self._durable is not None and issubclass(event_type, IntegrationEvent):
            self._durable.watch.check_room()

    def committed(self, pending: Sequence[Pending], /) -> None:
        """Take on what is known to be committed: listeners of this process, and a hint to the loops that send."""
        if self._durable is None:
            self._queue.accept(pending)
            return
        self._queue.accept([item for item in pending if isinstance(item, AfterCommit)])
        self._durable.committed(
            to_send={lane_of(item.envelope) for item in pending if isinstance(item, ToSend)},
            waiting={
                lane_of(item.emission.envelope) for item in pending if isinstance(item, AfterCommit) and item.durable
            },
        )


def outbox_rows(wiring: Wiring) -> Outbound | None:
    """What says which rows a transaction writes for its events; None for a service that delivers nothing durably."""
    if not wiring.is_durable:
        return None
    identities, sends = wiring.identities, wiring.durable_transport is not None

    def rows(pending: Sequence[Pending]) -> Sequence[Outgoing]:
        found: list[Outgoing] = []
        for item in pending:
            if isinstance(item, AfterCommit):
                envelope = item.emission.envelope
                found += [
                    Outgoing(envelope=envelope, consumer=identities.consumer(one), message=item.message)
                    for one in item.durable
                ]
            elif sends:
                found.append(Outgoing(envelope=item.envelope, message=item.message))
        return found

    return rows


def _not_running(service: str, event_type: type[Event]) -> PublishError:
    return PublishError(
        f"{service} is not running, so {event_type.__name__} would be heard by nobody after the commit. "
        "Publish inside: async with service: …"
    )
