"""JSON that anybody may have written, read so that it can be shown: no number and no text of it ends who reads it.

What decodes an event for a listener refuses such values; an operator has to see them.
"""

import json
import math
from typing import Any, cast

from msgspec import Raw

from cauce.errors import DecodeError
from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import from_json

__all__ = ["payload_of", "payload_of_message", "read_anybodys"]

_MOST_DIGITS = 300
"""Of a whole number. Python refuses to write one of more than 4,300, and needs the square of their count."""


def read_anybodys(raw: bytes) -> Any:
    """The JSON value. A number that does not fit into one (`1e400`, thousands of digits) is the text it was written as.

    Raises ValueError for what is no JSON, RecursionError for what is nested too deeply.
    """
    return json.loads(raw.decode(), parse_int=_whole, parse_float=_broken, parse_constant=str)


def payload_of(envelope: Envelope) -> Any:
    """The payload as it arrived, for people; None if it cannot be read. Never raises."""
    try:
        return read_anybodys(bytes(cast("Raw", envelope.payload)))
    except (ValueError, RecursionError):
        return None


def payload_of_message(message: bytes) -> Any:
    """The payload of a message, for people; None if the bytes are no event. Never raises."""
    try:
        return payload_of(from_json(message))
    except DecodeError:
        return None


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _broken(written: str) -> float | str:
    number = float(written)
    return number if math.isfinite(number) else written
