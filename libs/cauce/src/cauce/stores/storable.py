"""What people are to read, made fit to be stored: the last door before a store's own rows, the same for every store.

Identities (consumer, source, event id, key) do not pass here: two of them must not become one. They are checked where an
event is read or published.
"""

from msgspec.structs import replace

from cauce.ports.inbox import Failure, WaitingDelivery, bounded
from cauce.telemetry.storable import storable_line, storable_text

__all__ = ["bounded_delivery", "storable_failure", "storable_line", "storable_text"]

_SHORT = 200


def storable_failure(failure: Failure) -> Failure:
    """The same failure, in texts that every database takes and every terminal shows."""
    return replace(
        failure,
        error=storable_line(failure.error),
        stack=None if failure.stack is None else storable_text(failure.stack),
        worker=storable_line(failure.worker, limit=_SHORT),
        version=None if failure.version is None else storable_line(failure.version, limit=_SHORT),
    )


def bounded_delivery(delivery: WaitingDelivery) -> WaitingDelivery:
    """The same delivery with as much of its message as a dead letter keeps."""
    message, whole = bounded(delivery.message)
    return delivery if whole is None else replace(delivery, message=message, whole=whole)
