"""What a value is as plain data: subclasses mean what their base means, and every key has one text."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID

import uuid_utils
from msgspec import json

__all__ = ["UUIDS", "key_text", "plain"]

UUIDS = (UUID, uuid_utils.UUID)
"""Classes of UUIDs: the second one is its own, and means the same."""


def plain(value: object) -> object:
    """The standard library's value that `value` stands for; TypeError if it is no plain data.

    Made by the base class, whatever the subclass overrides: what pendulum, freezegun, numpy's float64 or a `str` of
    one's own say is the value they were made from. For what the codec does not write by itself.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, datetime):
        return _combine(_date_of(value), _time_of(value))
    if isinstance(value, date):
        return _date_from(_number_of(value))
    if isinstance(value, time):
        return _time_of(_combine(_SOME_DAY, value))
    if isinstance(value, timedelta):
        return timedelta.__pos__(value)
    if isinstance(value, Decimal):
        return Decimal(value)
    if isinstance(value, UUIDS):
        return UUID(int=value.int)
    if isinstance(value, bytes):
        return bytes(value)
    raise TypeError(f"{type(value).__name__} is no plain data")


# Bound once: while freezegun holds the time, the names `datetime` and `date` of this module mean its own classes.
_combine, _date_of, _time_of = datetime.combine, datetime.date, datetime.timetz
_date_from, _number_of, _SOME_DAY = date.fromordinal, date.toordinal, date(2000, 1, 1)

_encode = json.Encoder(enc_hook=plain, order="deterministic").encode
"""The members of a set, and the names of a dict, in the same order in every process."""


def key_text(value: object) -> str:
    """The text of a key: what the payload says, without its quotes. An enum's is that of its value.

    What has no JSON form (in a domain event that stays in its process) is named as Python does.
    """
    if isinstance(value, str) and not isinstance(value, Enum):
        return str.__str__(value)
    try:
        text = _encode(value)
    except Exception:
        return str(value)
    return json.decode(text, type=str) if text.startswith(b'"') else text.decode()
