"""An event at the moment it is published: checked, put into its envelope, and written as the message that will travel.

Nothing is left to fail at the commit: it writes these bytes, with a number for the event among those of its key.
"""

from collections.abc import Callable
from typing import TypeVar

from msgspec import structs

from cauce.errors import PublishError
from cauce.events.envelope import Envelope, key_of
from cauce.events.event import Event, describe
from cauce.formats.cloudevents import MAX_KEY_LENGTH, key_problem, outgoing_around_number
from cauce.formats.difference import Difference
from cauce.formats.payload import checked, refused

__all__ = ["Around", "published"]

E = TypeVar("E", bound=Event)

Around = tuple[bytes, bytes]
"""A message without the number that the database gives it: what stands before and after."""


def published(event: E, make: Callable[[E], Envelope]) -> tuple[Envelope, Around]:
    """The event in the envelope that `make` gives it, and its message. PublishError for what no service could read."""
    payload = checked(event)
    try:
        envelope = make(event)
    except ValueError as error:  # an id or a time that the service's own `new_id` or `clock` gave
        raise PublishError(
            f"{describe(type(event)).name} cannot be published · {error}. Nothing was published."
        ) from None
    if payload.event is not event:
        envelope = structs.replace(envelope, key=key_of(payload.event, describe(type(event))))
    if envelope.key is not None and key_problem(envelope.key) is not None:
        raise refused(event, Difference(_path_of_key(event), _KEY))
    return envelope, outgoing_around_number(envelope, payload.data)


_KEY = f"expected a key of at most {MAX_KEY_LENGTH} characters, without line ends, NUL and other control characters"


def _path_of_key(event: Event) -> str:
    at = event.__struct_fields__.index(describe(type(event)).key or "")
    return f"$.{event.__struct_encode_fields__[at]}"
