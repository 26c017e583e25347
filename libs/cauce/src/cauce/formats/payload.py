"""An event's payload as JSON, read back once before it is published: what nobody could read is refused by its publisher.

An event that cannot be decoded is beyond repair: it is committed, sent, and a dead letter of every listener. So what is
written is read again with the event's own class, and must be the event that was published. It may say the same in other
words, as a list for a tuple does or a whole number for a float; then what travels is written as the class says it.
"""

from typing import Generic, NamedTuple, TypeVar

import msgspec

from cauce.errors import DecodeError, PublishError
from cauce.events.event import Event, describe
from cauce.events.plain import plain
from cauce.formats.decoding import decode
from cauce.formats.difference import Difference, difference, unwritable

__all__ = ["MAX_MESSAGE_BYTES", "Payload", "checked", "encode", "refused"]

E = TypeVar("E", bound=Event)

MAX_MESSAGE_BYTES = 256 * 1024
"""Of an event with all that surrounds it."""

encode = msgspec.json.Encoder(enc_hook=plain).encode
"""JSON, also of values whose classes only derive from those that the codec writes. Checks nothing."""


class Payload(NamedTuple, Generic[E]):
    """What travels, and the event that its readers get: equal to the one that was published."""

    data: bytes
    event: E


def checked(event: E) -> Payload[E]:
    """The payload of an event that is being published. PublishError, with path and expectation, for one that its
    readers would not get as it is."""
    try:
        data = encode(event)
    except Exception as error:  # an odd value may raise anything
        unknown = Difference("$", f"expected plain data ({type(error).__name__})")
        raise refused(event, unwritable(event) or unknown) from None
    if len(data) > MAX_MESSAGE_BYTES:
        raise refused(event, Difference("$", f"at most {MAX_MESSAGE_BYTES} bytes, got {len(data)}"))
    read = _read(event, data)
    try:
        if read == event and encode(read) == data:
            return Payload(data, event)
    except Exception:  # noqa: S110  # of an `__eq__`, such as that of a signalling Decimal: the walk below says where
        pass
    if found := difference(event, read):
        raise refused(event, found)
    return Payload(encode(read), read)


def refused(event: Event, found: Difference) -> PublishError:
    """The error for an event that must not be published, with the place in its payload."""
    return PublishError(
        f"{describe(type(event)).name} cannot be published · {found.path}: {found.expectation}. Nothing was published.",
        path=found.path,
        expectation=found.expectation,
    )


def _read(event: E, data: bytes) -> E:
    try:
        return decode(data, type(event))
    except DecodeError as error:
        # The codec writes `nan` as null, and complains of a null, of which the publisher knows nothing.
        raise refused(event, unwritable(event) or Difference(error.path, error.expectation)) from None
    except Exception as error:  # what `__post_init__` raises passes through the codec
        why = f"expected a value that {type(event).__name__} accepts when it is read ({type(error).__name__})"
        raise refused(event, Difference("$", why)) from None
