"""Events written when their transaction commits: numbered by key, then outbox rows and waiting deliveries."""

from collections.abc import Sequence

from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import numbered, outgoing_around_number
from cauce.ports.inbox import WaitingDelivery
from cauce.ports.lanes import lane_of
from cauce.ports.outbox import Outgoing
from cauce.stores.memory.tables import Tables, add_unsent, add_waiting

__all__ = ["write_outgoing"]


def write_outgoing(rows: Tables, outgoing: Sequence[Outgoing], now: float) -> None:
    """Write the events that a transaction published; those of a key are numbered in commit order, without holes."""
    sequences: dict[str, int] = {}
    for one in outgoing:
        envelope = one.envelope
        if envelope.key is not None:
            place = (envelope.source, envelope.key)
            if envelope.id not in sequences:
                sequences[envelope.id] = rows.key_head[place] = rows.key_head.get(place, 0) + 1
        message = numbered(
            one.message or outgoing_around_number(envelope), sequences.get(envelope.id), rows.meta["incarnation"]
        )
        if one.consumer is None:
            add_unsent(rows, envelope, message, now)
        else:
            add_waiting(rows, _delivery_of(envelope, message, one.consumer), next_at=now)


def _delivery_of(envelope: Envelope, message: bytes, consumer: str) -> WaitingDelivery:
    return WaitingDelivery(
        position=None,
        consumer=consumer,
        source=envelope.source,
        event_id=envelope.id,
        lane=lane_of(envelope),
        key=envelope.key,
        channel="",
        message=message,
        attempts=0,
        first_failed_at=None,
        name=envelope.name,
    )
