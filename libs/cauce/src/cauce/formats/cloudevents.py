"""CloudEvents 1.0, structured JSON: how an envelope travels on every durable transport, and how it is stored.

Attributes of ours that the specification does not name are extensions (lower-case letters and digits, as it asks):
`partitionkey` is the key, `sequence` the key's number, `incarnation` the producer's database, `sourceversion` the
version of its code.
Source: CloudEvents specification 1.0.2, sections 3 (attributes) and JSON format; partitioning, sequence and
distributed-tracing extensions.

Whatever comes from a broker is data, never code, and has limits: what is larger, deeper or longer, has a name twice in
one object, or has control characters in an attribute, is refused where it is read. Attributes become keys of tables, so
their limits are those of the narrowest database.
"""

import json
import re
from datetime import UTC, datetime
from typing import Annotated, cast

import msgspec
from msgspec import Meta

from cauce.errors import DecodeError, PublishError
from cauce.events.envelope import MAX_ID_LENGTH, Envelope
from cauce.events.plain import plain
from cauce.formats.payload import MAX_MESSAGE_BYTES, encode

__all__ = [
    "CONTENT_GONE",
    "MAX_DEPTH",
    "MAX_MESSAGE_BYTES",
    "from_json",
    "key_problem",
    "number",
    "numbered",
    "outgoing",
    "outgoing_around_number",
    "read_of_topic",
    "to_json",
]

CONTENT_GONE = "the broker has forgotten its content: it was deleted before it was acknowledged"

MAX_DEPTH = 32
MAX_NAME_LENGTH = 256
MAX_SOURCE_LENGTH = 128
MAX_KEY_LENGTH = 256
MAX_VERSION = 2**31 - 1
MAX_SEQUENCE_DIGITS = 18
MAX_VERSION_LENGTH = 64

_LONGEST_NUMBER = 10**MAX_SEQUENCE_DIGITS - 1
_LONGEST_INCARNATION = "-" * 36

_Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]
_Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
_Source = Annotated[str, Meta(min_length=1, max_length=MAX_SOURCE_LENGTH)]
_Version = Annotated[int, Meta(ge=1, le=MAX_VERSION)]
_Key = Annotated[str, Meta(max_length=MAX_KEY_LENGTH)]
_Sequence = Annotated[str, Meta(max_length=MAX_SEQUENCE_DIGITS)]
_CodeVersion = Annotated[str, Meta(max_length=MAX_VERSION_LENGTH)]
_Trace = Annotated[str, Meta(max_length=1024)]


class _CloudEvent(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    specversion: str
    id: _Id
    source: _Source
    sourceversion: _CodeVersion | None = None
    type: _Name
    time: datetime
    datacontenttype: str = ""
    eventversion: _Version = 1
    partitionkey: _Key | None = None
    sequence: _Sequence | None = None
    incarnation: _Id | None = None
    correlationid: _Id | None = None
    causationid: _Id | None = None
    traceparent: _Trace | None = None
    tracestate: _Trace | None = None
    data: msgspec.Raw


_encoder = msgspec.json.Encoder(enc_hook=plain)
_decoder = msgspec.json.Decoder(_CloudEvent)
_any_json = msgspec.json.Decoder()
_BACKSLASH, _BRACKET, _DELETE, _C1 = 0x5C, 0x5B, 0x7F, 0xC2  # as numbers: ten times faster to look for than as bytes
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
"""Characters the specification forbids in attributes (section 3.1), and PostgreSQL in texts."""


def outgoing(envelope: Envelope) -> bytes:
    """The message of an event that is being published. PublishError for one that no service could read."""
    return _readable(to_json(envelope), envelope)


def outgoing_around_number(envelope: Envelope, data: bytes | None = None) -> tuple[bytes, bytes]:
    """As `outgoing`, for an event that the database numbers while it writes it: what stands before and after `number`.

    An event without a key has no number: all of it stands before. `data`: its payload, written and checked before.
    """
    if envelope.key is None:
        return _readable(to_json(envelope, data), envelope, checked=data is not None), b""
    longest = msgspec.structs.replace(envelope, key_seq=_LONGEST_NUMBER, incarnation=_LONGEST_INCARNATION)
    message = _readable(to_json(longest, data), envelope, checked=data is not None)
    # Quotes inside of attributes are escaped, and data comes last: it is found where it stands and nowhere else.
    before, _, after = message.partition(number(str(_LONGEST_NUMBER), _LONGEST_INCARNATION).encode())
    return before, after


def numbered(around: tuple[bytes, bytes], sequence: int | None, incarnation: str | None) -> bytes:
    """The message once its number is known; None for an event that has none."""
    before, after = around
    if sequence is None or incarnation is None:
        return before + after
    return b"".join((before, number(str(sequence), incarnation).encode(), after))


def number(sequence: str, incarnation: str) -> str:
    """The attributes of a message that only the database knows."""
    return f',"sequence":"{sequence}","incarnation":"{incarnation}"'


def to_json(envelope: Envelope, data: bytes | None = None) -> bytes:
    """The message as it travels: UTF-8 JSON. Checks nothing. `data`: its payload, if it is written already."""
    payload = envelope.payload
    if data is None and not isinstance(payload, msgspec.Raw):
        data = encode(payload)
    return _encoder.encode(
        _CloudEvent(
            specversion="1.0",
            id=envelope.id,
            source=envelope.source,
            sourceversion=envelope.source_version,
            type=envelope.name,
            time=envelope.occurred_on.astimezone(UTC),
            datacontenttype="application/json",
            eventversion=envelope.version,
            partitionkey=envelope.key,
            sequence=None if envelope.key_seq is None else str(envelope.key_seq),
            incarnation=envelope.incarnation,
            correlationid=None if envelope.correlation_id == envelope.id else envelope.correlation_id,
            causationid=envelope.causation_id,
            traceparent=envelope.traceparent,
            tracestate=envelope.tracestate,
            data=cast("msgspec.Raw", payload) if data is None else msgspec.Raw(data),
        )
    )


def _readable(message: bytes, envelope: Envelope, *, checked: bool = False) -> bytes:
    """The message, if every reader takes it. `checked`: its payload was read before, and is an event's: no name in it
    is there twice."""
    try:
        _read(message, names_once=checked)
    except DecodeError as error:
        raise PublishError(
            f"{envelope.name} cannot be published · {error.path}: {error.expectation}. Nothing was published.",
            path=error.path,
            expectation=error.expectation,
        ) from None
    return message


def from_json(raw: bytes) -> Envelope:
    """The envelope, its payload still `Raw`. DecodeError for whatever is no CloudEvent of ours; never another error."""
    event = _read(raw)
    sequence = event.sequence
    return Envelope(
        id=event.id,
        source=event.source,
        source_version=event.sourceversion,
        name=event.type,
        version=event.eventversion,
        occurred_on=event.time if event.time.tzinfo is UTC else _in_utc(event.time),
        payload=event.data,
        correlation_id=event.correlationid or event.id,
        causation_id=event.causationid,
        key=event.partitionkey,
        key_seq=None if sequence is None else int(sequence),
        incarnation=event.incarnation,
        traceparent=event.traceparent,
        tracestate=event.tracestate,
    )


def _read(raw: bytes, *, names_once: bool = False) -> _CloudEvent:
    """What `from_json` reads. `names_once`: no name is there twice in one object, so nobody need look."""
    if len(raw) > MAX_MESSAGE_BYTES:
        raise DecodeError("a message", path="$", expectation=f"at most {MAX_MESSAGE_BYTES} bytes, got {len(raw)}")
    if raw.count(b"{") + (raw.count(b"[") if _BRACKET in raw else 0) > MAX_DEPTH and _too_deep(raw):
        raise DecodeError("a message", path="$", expectation=f"at most {MAX_DEPTH} levels of nesting")
    try:
        event = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at ")
        raise DecodeError("a message", path=path.strip("`") or "$", expectation=text.replace("`", "")) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise DecodeError("a message", path="$", expectation="CloudEvents 1.0 JSON") from None
    if event.specversion != "1.0":
        raise DecodeError("a message", path="$.specversion", expectation="1.0")
    if not names_once:
        _refuse_names_given_twice(raw)
    if _may_hold_control_characters(raw):
        _refuse_control_characters(event)
    sequence = event.sequence
    if sequence is not None and not (sequence.isascii() and sequence.isdecimal()):
        raise DecodeError("a message", path="$.sequence", expectation="a whole number in decimal digits")
    return event


class OfTopic(msgspec.Struct, frozen=True):
    """What the bytes of an entry are: an event of the topic it stands in, or the problem with it."""

    envelope: Envelope | None = None
    problem: str | None = None
    foreign: bool = False
    """An event, and of another service: whoever may write to a topic speaks for its service only."""


def read_of_topic(raw: bytes | None, topic: str) -> OfTopic:
    """What an entry of the topic is. `raw` is None where the broker has only its id left. Never raises."""
    if raw is None:
        return OfTopic(problem=CONTENT_GONE)
    try:
        envelope = from_json(raw)
    except DecodeError as error:
        return OfTopic(problem=f"{error.path}: {error.expectation}")
    if envelope.source != topic:
        problem = f"it says it comes from {envelope.source!r} and stands in the topic of {topic!r}"
        return OfTopic(problem=problem, foreign=True)
    return OfTopic(envelope)


def key_problem(key: str) -> str | None:
    """What a key must be and this one is not, the same whether it came as an attribute or from the payload."""
    if len(key) > MAX_KEY_LENGTH:
        return f"at most {MAX_KEY_LENGTH} characters as a key, got {len(key)}"
    if _CONTROL.search(key) or not _has_utf8(key):
        return "a key without control characters and halves of surrogates"
    return None


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_names_given_twice(raw: bytes) -> None:
    """Parsers disagree on which of the two counts, so a check could see one value and a listener the other."""
    # What reads as the same bytes when it is written again has no name twice: so all of our own, five times faster.
    try:
        if _encoder.encode(_any_json.decode(raw)) == raw:
            return
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        json.loads(raw, object_pairs_hook=_no_name_twice, parse_int=len, parse_float=len)
    except ValueError:
        raise DecodeError("a message", path="$", expectation="CloudEvents 1.0 JSON") from None


def _no_name_twice(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DecodeError("a message", path="$", expectation=f"each name once in an object, got {twice[:64]!r} twice")


def _may_hold_control_characters(raw: bytes) -> bool:
    """In JSON they are escaped, or are one of the few that need not be; nearly no message has any of the three."""
    return _BACKSLASH in raw or _DELETE in raw or _C1 in raw


def _refuse_control_characters(event: _CloudEvent) -> None:
    texts = (
        event.id, event.source, event.sourceversion, event.type, event.partitionkey, event.incarnation,
        event.correlationid, event.causationid, event.traceparent, event.tracestate,
    )  # fmt: skip
    if _CONTROL.search("".join(filter(None, texts))):
        raise DecodeError("a message", path="$", expectation="attributes without control characters")


def _in_utc(time: datetime) -> datetime:
    """A time without a zone is taken as UTC."""
    if time.tzinfo is None:
        return time.replace(tzinfo=UTC)
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise DecodeError("a message", path="$.time", expectation="a time that exists in UTC") from None


_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"[]", b"{}")
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"{}[]")


def _too_deep(raw: bytes) -> bool:
    """Whether brackets are nested deeper than allowed; those inside strings do not count. Linear in the size."""
    bare = _STRINGS.sub(b"", raw) if b"\\" in raw else b"".join(raw.split(b'"')[::2])
    brackets = bare.translate(_ONE_KIND, _ALL_BUT_BRACKETS)
    for _ in range(MAX_DEPTH):  # each time the innermost level goes
        brackets = brackets.replace(b"{}", b"")
        if not brackets:
            return False
    return True
