"""What NestJS's Redis transport puts on a channel, written and read without a connection.

Writing is byte for byte what `client.emit(event.name, event)` sends for an event of the article's shape, down
to how V8 prints a number. Attributes the article does not have (version, correlation …) follow `occurredOn`,
and only when they say something. Reading forgives what NestJS forgives and never raises: whatever is no event
becomes a sentence.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json import loads as parse_json
from json.encoder import encode_basestring  # pyright: ignore[reportUnknownVariableType]  # untyped in typeshed
from typing import Final, NoReturn, TypeAlias, cast

from msgspec import UNSET, DecodeError, Raw, Struct, UnsetType, ValidationError, to_builtins
from msgspec.json import Decoder

from cauce.errors import PublishError
from cauce.events.envelope import MAX_ID_LENGTH, Clock, Envelope, NewId, new_id, utc_now
from cauce.events.plain import plain

__all__ = [
    "MAX_DEPTH",
    "MAX_SIZE",
    "REPLY_SUFFIX",
    "Packet",
    "Pattern",
    "PatternValue",
    "channel_of",
    "encode",
    "json_text",
    "read",
    "reply_to",
]

MAX_SIZE: Final = 256 * 1024
"""Bytes of one packet, either way. NestJS itself has no limit."""
MAX_DEPTH: Final = 32
"""Objects and arrays inside each other, the packet itself included."""
REPLY_SUFFIX: Final = ".reply"

PatternValue: TypeAlias = str | int | float | bool | Sequence["PatternValue"] | Mapping[str, "PatternValue"] | None
Pattern: TypeAlias = str | int | float | Mapping[str, PatternValue]
"""What `@EventPattern` and `@MessagePattern` take."""


# --- writing --------------------------------------------------------------------------------------------


def encode(envelope: Envelope, *, pattern: Pattern | None = None, durable: bool = False) -> bytes:
    """The bytes of NestJS's `emit(pattern, event)`. Without `pattern` the event's own name is it.

    A text pattern is also the event's name on the wire, as in the article. The first event of a chain,
    version 1, has exactly the article's five attributes. Times keep milliseconds, as JavaScript's dates do.
    `durable` says, beside the event and so unseen by NestJS's handlers, that it is on a durable topic too.

    Raises PublishError if the payload has no JSON form, or breaks MAX_SIZE or MAX_DEPTH, which our own
    readers hold.
    """
    spoken = envelope.name if pattern is None else pattern
    name = spoken if isinstance(spoken, str) else envelope.name
    try:
        payload = _payload_text(envelope)
        data = [
            f'"service":{json_text(envelope.source)}',
            f'"name":{json_text(name)}',
            f'"payload":{payload}',
            f'"id":{json_text(envelope.id)}',
            f'"occurredOn":{json_text(envelope.occurred_on)}',
            *(f'"{word}":{json_text(value)}' for word, value in _additions(envelope)),
        ]
        mark = ',"durable":true' if durable else ""
        packet = f'{{"pattern":{json_text(spoken)},"data":{{{",".join(data)}}}{mark}}}'.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PublishError(f"{envelope.name} has no JSON form: {error}") from None
    if problem := _beyond_limits(packet):
        raise PublishError(
            f"{envelope.name} cannot be published over NestJS's transport: {problem}", path="$", expectation=problem
        )
    return packet


def _additions(envelope: Envelope) -> Sequence[tuple[str, str | int]]:
    """Attributes NestJS does not know, as far as they say something its own five do not."""
    candidates: tuple[tuple[str, str | int | None], ...] = (
        ("version", envelope.version if envelope.version != 1 else None),
        ("correlationId", envelope.correlation_id if envelope.correlation_id != envelope.id else None),
        ("causationId", envelope.causation_id),
        ("traceparent", envelope.traceparent),
        ("tracestate", envelope.tracestate),
    )
    return [(word, value) for word, value in candidates if value is not None]


def _payload_text(envelope: Envelope) -> str:
    if isinstance(envelope.payload, Raw):
        return bytes(envelope.payload).decode()
    members: object = to_builtins(envelope.payload, builtin_types=(datetime,), str_keys=True, enc_hook=plain)
    return json_text(members)


def reply_to(request_id: bytes) -> bytes:
    """What NestJS answers when a handler returned nothing. `request_id`: the JSON text of the request's
    id."""
    return b'{"isDisposed":true,"id":' + request_id + b"}"


# --- JSON as V8 writes it -------------------------------------------------------------------------------


def json_text(value: object) -> str:
    """`JSON.stringify(value)` for what JSON can say, aware datetimes as JavaScript's Date. TypeError for the
    rest.

    Differs from Python's encoders in numbers (5.0 is `5`, 1e21 is `1e+21`), in lone surrogates (escaped), and
    in the order of keys that look like array indexes (they come first). Whole numbers beyond 2**53 keep all
    digits.
    """
    if isinstance(value, str):
        return _string(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value) if math.isfinite(value) else "null"
    if isinstance(value, datetime):
        return f'"{_time(value)}"'
    if isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        return "{" + ",".join(f"{_string(key)}:{json_text(members[key])}" for key in _in_js_order(members)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(json_text(item) for item in cast("Sequence[object]", value)) + "]"
    raise TypeError(f"{type(value).__name__} is not plain data")


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _string(text: str) -> str:
    quoted = encode_basestring(text)
    if quoted.isascii() or _SURROGATE.search(quoted) is None:
        return quoted
    paired = quoted.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return _SURROGATE.sub(lambda lone: f"\\u{ord(lone[0]):04x}", paired)


def _number(value: float) -> str:
    """Number::toString of ECMAScript: the shortest digits that mean this number, laid out by JavaScript's
    rules."""
    if value == 0:
        return "0"
    if value < 0:
        return "-" + _number(-value)
    mantissa, _, exponent = repr(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or "0")
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    sign = "+" if point > 0 else "-"
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{digits[0]}{tail}e{sign}{abs(point - 1)}"


def _time(moment: datetime) -> str:
    if moment.tzinfo is None:
        return moment.isoformat()
    try:
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:  # a moment of the first or last day there is, in a zone where that day is another
        return moment.isoformat(timespec="milliseconds")


_MAX_ARRAY_INDEX: Final = 2**32 - 2
_INDEX: Final = re.compile("0|[1-9][0-9]{0,9}")


def _in_js_order(members: Mapping[str, object]) -> Sequence[str]:
    indexes = [key for key in members if _INDEX.fullmatch(key) and int(key) <= _MAX_ARRAY_INDEX]
    if not indexes:
        return list(members)
    return [*sorted(indexes, key=int), *(key for key in members if key not in indexes)]


# --- patterns and channels ------------------------------------------------------------------------------


def channel_of(pattern: Pattern) -> str:
    """The Redis channel of a NestJS pattern: text and numbers as they are, objects with their keys sorted.

    NestJS sorts by the locale (`cmd` before `Service`) and does not write strict JSON; its versions differ
    where a quote or backslash is in a key or value, where the nesting exceeds 5, or an object 20 keys.
    ValueError for those, and for keys beyond printable ASCII.
    """
    if isinstance(pattern, str):
        if not pattern:
            raise ValueError("a NestJS pattern cannot be empty")
        return pattern
    return _route(pattern, depth=0)


def _route(value: PatternValue, *, depth: int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a NestJS pattern cannot hold {value!r}")
        return _number(value)
    members = value if isinstance(value, Mapping) else {str(i): item for i, item in enumerate(value)}
    if depth > 5 or len(members) > 20:
        raise ValueError("NestJS 11.2 and later cut patterns of more than 20 keys or 5 levels; use a shorter one")
    return "{" + ",".join(_member(key, members[key], depth) for key in sorted(members, key=_collation)) + "}"


def _member(key: str, value: PatternValue, depth: int) -> str:
    for text in (key, value):
        if isinstance(text, str) and ('"' in text or "\\" in text):
            raise ValueError(f"NestJS's versions disagree on quotes and backslashes in a pattern: {text!r}")
    route = _route(value, depth=depth + 1)
    return f'"{key}":"{route}"' if isinstance(value, str) else f'"{key}":{route}'


_COLLATION: Final = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789abcdefghijklmnopqrstuvwxyz"
"""Printable ASCII as the Unicode root collation sorts it; capitals only decide between otherwise equal
keys."""


def _collation(key: str) -> tuple[list[int], list[bool]]:
    try:
        return [_COLLATION.index(letter) for letter in key.lower()], [letter.isupper() for letter in key]
    except ValueError:
        raise ValueError(f"a key of a NestJS pattern here is printable ASCII, not {key!r}") from None


# --- reading --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """What came over a channel: an event, or the reason why it is none; and how to answer, if it was a
    request."""

    envelope: Envelope | None = None
    problem: str | None = None
    request_id: bytes | None = None
    """The JSON text of the request's id (NestJS `send`); None for `emit`."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """`assumed`: which attributes were not on the wire, `id` and `occurredOn`, comma-separated. `durable`: `true` if
    the sender says that the event is on a durable topic too."""


class _Outer(Struct):
    pattern: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    durable: Raw | UnsetType = UNSET


class _Data(Struct, rename="camel"):
    service: Raw | UnsetType = UNSET
    name: Raw | UnsetType = UNSET
    payload: Raw | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    occurred_on: Raw | UnsetType = UNSET
    version: Raw | UnsetType = UNSET
    correlation_id: Raw | UnsetType = UNSET
    causation_id: Raw | UnsetType = UNSET
    traceparent: Raw | UnsetType = UNSET
    tracestate: Raw | UnsetType = UNSET


_outer = Decoder(_Outer)
_data = Decoder(_Data)
_scalar: Decoder[str | int | float | bool | None] = Decoder(str | int | float | bool | None)


class _NoEventError(Exception):
    """Carries the sentence; never leaves this module."""


def read(raw: bytes, *, name: str | None, clock: Clock = utc_now, make_id: NewId = new_id) -> Packet:
    """Read one message. Never raises; `payload` stays undecoded, since only a service knows the type.

    `name` is the event name that the channel stands for: NestJS routes by channel, so it wins over
    `data.name`, which is used only where the channel is no name (`name=None`: an object pattern nobody gave a
    name to).

    As NestJS does it: JSON with neither `pattern` nor `data` is all data; an outer `id` makes it a request.
    Beyond the article's shape, data without `payload`, `service` and `occurredOn` is taken as the payload
    itself, as plain `emit(name, {…})` sends it. A missing or null id is made here, a missing or unreadable
    `occurredOn` is the time of arrival, a missing service is `unknown`; `headers["assumed"]` tells. A lone
    surrogate in a text, which UTF-8 cannot say, becomes U+FFFD. No event: beyond the limits, not JSON, a key
    twice in one object, no object as payload, an id of more than 128 characters or with control characters, a
    version that is no whole number.
    """
    request_id: bytes | None = None
    headers: dict[str, str] = {}
    try:
        text = _checked(raw)
        outer = _outer_of(text)
        if outer is None or (outer.pattern is UNSET and outer.data is UNSET):
            data = text
        else:
            request_id = _request_id(outer.id)
            if outer.durable == Raw(b"true"):
                headers["durable"] = "true"
            if outer.data is UNSET:
                raise _NoEventError("the packet has no data")
            data = bytes(outer.data)
        envelope, assumed = _event(data, name=name, clock=clock, make_id=make_id)
    except _NoEventError as reason:
        return Packet(problem=str(reason), request_id=request_id)
    except (DecodeError, ValidationError, ValueError, RecursionError) as error:
        return Packet(problem=f"not an event: {error}", request_id=request_id)
    if assumed:
        headers["assumed"] = ",".join(assumed)
    return Packet(envelope=envelope, request_id=request_id, headers=headers)


def _checked(raw: bytes) -> bytes:
    """`raw`, if it is JSON within the limits that every parser reads alike."""
    if problem := _beyond_limits(raw):
        raise _NoEventError(problem)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise _NoEventError("not UTF-8") from None
    if _SURROGATE_ESCAPE.search(text):
        text = _ESCAPES.sub(lambda found: "\\ufffd" if found["lone"] else found[0], text)
    try:
        parse_json(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant, parse_int=len, parse_float=len)
    except ValueError:
        raise _NoEventError("not JSON") from None
    return text.encode()


_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPES: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|\\.",
    re.DOTALL,
)


def _no_key_twice(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _NoEventError("a key is there twice in one object, and parsers disagree on which one counts")


def _no_constant(word: str) -> NoReturn:
    raise ValueError(word)


# Possessive, and content with an end of text instead of a closing quote: linear whatever comes in.
_TEXTS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")


def _beyond_limits(text: bytes) -> str | None:
    if len(text) > MAX_SIZE:
        return f"{len(text)} bytes are more than the limit of {MAX_SIZE}"
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return None
    brackets = _TEXTS.sub(b"", text).translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):  # each round takes the innermost pairs away
        brackets = brackets.replace(b"[]", b"")
    # What is left is too deep, or malformed and then shallow enough for a parser to say so.
    if b"[]" in brackets or brackets.count(b"[") > MAX_DEPTH:
        return f"nested deeper than the limit of {MAX_DEPTH}"
    return None


def _outer_of(text: bytes) -> _Outer | None:
    try:
        return _outer.decode(text)
    except ValidationError:  # an array, a text, a number …: valid JSON, no packet
        return None


def _request_id(raw: Raw | UnsetType) -> bytes | None:
    """The id as it is to be echoed. One that no client of NestJS makes is not answered."""
    if raw is UNSET:
        return None
    text = bytes(raw)
    return text if len(text) <= MAX_ID_LENGTH * 6 and text[:1] not in (b"{", b"[") else None


def _event(text: bytes, *, name: str | None, clock: Clock, make_id: NewId) -> tuple[Envelope, Sequence[str]]:
    kind = _kind(text)
    if kind != "an object":
        raise _NoEventError(f"the data is {kind}, an event is an object")
    data = _data.decode(text)
    if data.payload is UNSET:
        if data.service is not UNSET or data.occurred_on is not UNSET:
            raise _NoEventError("the event has no payload")
        data = _Data(payload=Raw(text))
    assert data.payload is not UNSET  # noqa: S101  # for the type checker
    if (kind := _kind(bytes(data.payload))) != "an object":
        raise _NoEventError(f"the payload is {kind}, expected an object")
    assumed: list[str] = []
    event_id = _id(data.id)
    if event_id is None:
        assumed.append("id")
        event_id = make_id()
    occurred_on = _moment(data.occurred_on)
    if occurred_on is None:
        assumed.append("occurredOn")
        occurred_on = clock()
    spoken = name if name is not None else _word(data.name)
    if spoken is None:
        raise _NoEventError("the event has no name, and its channel stands for none")
    envelope = Envelope(
        id=event_id,
        source=_word(data.service) or "unknown",
        name=spoken,
        version=_version(data.version),
        occurred_on=occurred_on,
        payload=data.payload,
        correlation_id=_word(data.correlation_id) or event_id,
        causation_id=_word(data.causation_id),
        traceparent=_matching(_TRACEPARENT, data.traceparent),
        tracestate=_matching(_TRACESTATE, data.tracestate),
    )
    return envelope, assumed


_KINDS: Final = {
    b"{": "an object",
    b"[": "an array",
    b'"': "a text",
    b"n": "null",
    b"t": "true",
    b"f": "false",
}


def _kind(text: bytes) -> str:
    return _KINDS.get(text.lstrip()[:1], "a number")


def _value(raw: Raw | UnsetType) -> str | int | float | bool | None:
    """A scalar; None for null, nothing, or anything that is no scalar."""
    if raw is UNSET or bytes(raw)[:1] in (b"{", b"["):
        return None
    try:
        return _scalar.decode(raw)
    except (DecodeError, ValidationError):  # a number out of range
        return None


_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _id(raw: Raw | UnsetType) -> str | None:
    value = _value(raw)
    if value is None and (raw is UNSET or bytes(raw) == b"null"):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _NoEventError("the event's id is neither a text nor a whole number")
    if not 0 < len(value) <= MAX_ID_LENGTH:
        raise _NoEventError(f"the event's id has {len(value)} characters, expected 1 to {MAX_ID_LENGTH}")
    if _UNPRINTABLE.search(value):
        raise _NoEventError("the event's id has control characters")
    return value


def _word(raw: Raw | UnsetType) -> str | None:
    """A short printable text, or None: these end in logs and headers."""
    value = _value(raw)
    if isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH and not _UNPRINTABLE.search(value):
        return value
    return None


_TRACEPARENT: Final = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-[ -~]{1,64})?")
_TRACESTATE: Final = re.compile("[ -~]{1,512}")


def _matching(shape: re.Pattern[str], raw: Raw | UnsetType) -> str | None:
    value = _value(raw)
    return value if isinstance(value, str) and shape.fullmatch(value) else None


def _version(raw: Raw | UnsetType) -> int:
    if raw is UNSET:
        return 1
    value = _value(raw)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _NoEventError("the event's version is not a whole number from 1")
    return value


def _moment(raw: Raw | UnsetType) -> datetime | None:
    """ISO 8601 text (without a zone: UTC), or milliseconds since 1970, as `Date.now()` gives them."""
    value = _value(raw)
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None
