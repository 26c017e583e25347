"""From an envelope with raw bytes to a typed event."""

import re
from os.path import basename
from typing import TypeVar

import msgspec

from cauce.errors import DecodeError
from cauce.events.envelope import Emission, Envelope, key_of
from cauce.events.event import Event, describe

__all__ = ["decode", "typed"]


E = TypeVar("E", bound=Event)

_AT = re.compile(r" - at `(\$[^`]*)`\Z")


def decode(raw: bytes | msgspec.Raw, event_type: type[E]) -> E:
    """The typed event. DecodeError says where in the payload it does not fit, never what stands there.

    Also for whatever the class's own code raises (`__post_init__`, a property of a nested type), SystemExit included:
    what one event's bytes make a class do is that event's trouble, and the process has others.
    """
    name = describe(event_type).name
    try:
        return msgspec.json.decode(raw, type=event_type)
    except msgspec.ValidationError as error:
        raise _not_fitting(name, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(name, path="$", expectation=f"not JSON ({type(error).__name__})") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # code of the class, on bytes that anybody may have sent
        raise DecodeError(name, path="$", expectation=_refused_by(error)) from None


def _not_fitting(name: str, error: msgspec.ValidationError) -> DecodeError:
    """msgspec turns a ValueError or TypeError of `__post_init__` into an error of its own, with that one's text."""
    found = _AT.search(text := str(error))
    path = found[1][:200] if found else "$"
    if error.__cause__ is not None:
        return DecodeError(name, path=path, expectation=_refused_by(error.__cause__))
    return DecodeError(name, path=path, expectation=_without_values(text[: found.start()] if found else text))


def _refused_by(error: BaseException) -> str:
    """Its type and the line that raised it; its text may hold the value."""
    name = type.__dict__["__name__"].__get__(type(error))  # a metaclass may answer `__name__` in its own way
    innermost = error.__traceback__
    if innermost is None or (innermost.tb_next is None and innermost.tb_frame.f_code.co_filename == __file__):
        return f"not JSON ({name})"  # raised by the decoder itself
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    return f"its class refuses it ({name} at {basename(innermost.tb_frame.f_code.co_filename)}:{innermost.tb_lineno})"


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
