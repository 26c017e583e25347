"""What a delivery is to this version of the service: an event of a class it knows, or why it is none.

The order of the checks is the order of trust: whose event it is, of which version, what it says. Sans-I/O.
"""

from collections.abc import Mapping

from msgspec import Struct

from cauce.errors import DecodeError
from cauce.events.envelope import Emission, Envelope
from cauce.events.event import Event, EventType, describe
from cauce.formats.cloudevents import key_problem
from cauce.formats.decoding import typed
from cauce.ports.inbox import Refused

__all__ = ["Refusal", "read"]


class Refusal(Struct, frozen=True):
    """Why no listener is given the event, in a word and in a sentence."""

    reason: Refused
    why: str


def read(envelope: Envelope, types: Mapping[str, type[Event]]) -> Emission | Refusal:
    """The event for its listeners, or why there is none. Never raises, whatever the bytes are and the class does.

    `types`: event classes by every name they are accepted under. A name that is not among them is one that another
    version of the service knows.
    """
    event_type = types.get(envelope.name)
    if event_type is None:
        return Refusal("newer version", f"this version of the service knows no event {envelope.name}")
    described = describe(event_type)
    if (why := _whose_it_is_not(envelope, described)) is not None:
        return Refusal("wrong source", why)
    if envelope.version > described.version:
        return Refusal(
            "newer version",
            f"it is of version {envelope.version}, and {event_type.__name__} of this version of the service reads up to "
            f"{described.version}",
        )
    try:
        emission = typed(envelope, event_type)
    except DecodeError as error:
        return Refusal("undecodable", f"{error.path}: {error.expectation}")
    key = emission.envelope.key
    if envelope.key is None and key is not None and (problem := key_problem(key)) is not None:
        return Refusal("undecodable", f"$.{described.key}: {problem}")
    return emission


def _whose_it_is_not(envelope: Envelope, described: EventType) -> str | None:
    """The event of another service in a topic of its own: whoever may write there speaks for that service only."""
    if described.source is None or envelope.source in (described.source, *described.earlier_sources):
        return None
    return (
        f"{envelope.source} said it, and {described.name} is {described.source}'s. If it moved from one service to "
        f"another: earlier_sources=({envelope.source!r},) in {described.cls.__name__}"
    )
