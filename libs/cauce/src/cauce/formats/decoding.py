"""From an envelope with raw bytes to a typed event."""

import re
from typing import TypeVar

import msgspec

from cauce.errors import DecodeError
from cauce.events.envelope import Emission, Envelope, key_of
from cauce.events.event import Event, describe

__all__ = ["decode", "typed"]


E = TypeVar("E", bound=Event)


def decode(raw: bytes | msgspec.Raw, event_type: type[E]) -> E:
    """The typed event. DecodeError says where in the payload it does not fit, never what stands there."""
    name = describe(event_type).name
    try:
        return msgspec.json.decode(raw, type=event_type)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at ")
        raise DecodeError(name, path=path.strip("`") or "$", expectation=_without_values(text)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(name, path="$", expectation=f"not JSON ({type(error).__name__})") from None


def _without_values(text: str) -> str:
    """msgspec names types, and for enums and tags the value, which may be somebody's data."""
    text = re.sub(r"^(Invalid enum value|Invalid value) .*", r"\1", text, flags=re.DOTALL)
    return (text[:1].lower() + text[1:])[:200].replace("`", "")


def typed(envelope: Envelope, event_type: type[Event]) -> Emission:
    """The emission a listener is given: under the event's own name, whatever name it came under. DecodeError as above."""
    payload = envelope.payload
    event = payload if isinstance(payload, Event) else decode(payload, event_type)
    described = describe(event_type)
    key = key_of(event, described) if envelope.key is None else envelope.key
    known = msgspec.structs.replace(envelope, name=described.name, payload=event, key=key)
    return Emission(event, None, known.source, known)
