"""CloudEvents 1.0, structured JSON: how an envelope travels on every durable transport, and how it is stored.

Attributes of ours that the specification does not name are extensions (lower-case letters and digits, as it asks):
`partitionkey` is the key, `sequence` the key's number, `incarnation` the producer's database.
Source: CloudEvents specification 1.0.2, sections 3 (attributes) and JSON format; partitioning, sequence and
distributed-tracing extensions.
"""

from datetime import UTC, datetime

import msgspec

from cauce.envelope import Envelope
from cauce.errors import DecodeError

__all__ = ["MAX_DEPTH", "MAX_MESSAGE_BYTES", "from_json", "to_json"]

MAX_MESSAGE_BYTES = 256 * 1024
MAX_DEPTH = 32


class _CloudEvent(msgspec.Struct, kw_only=True, omit_defaults=True):
    specversion: str
    id: str
    source: str
    type: str
    time: datetime
    datacontenttype: str = ""
    eventversion: int = 1
    partitionkey: str | None = None
    sequence: str | None = None
    incarnation: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    data: msgspec.Raw


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_CloudEvent)


def to_json(envelope: Envelope) -> bytes:
    """The message as it travels: UTF-8 JSON."""
    payload = envelope.payload
    data = payload if isinstance(payload, msgspec.Raw) else msgspec.Raw(_encoder.encode(payload))
    return _encoder.encode(
        _CloudEvent(
            specversion="1.0",
            id=envelope.id,
            source=envelope.source,
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
            data=data,
        )
    )


def from_json(raw: bytes) -> Envelope:
    """The envelope, its payload still `Raw`. DecodeError for whatever is no CloudEvent of ours; never another error."""
    if len(raw) > MAX_MESSAGE_BYTES:
        raise DecodeError("a message", path="$", expectation=f"at most {MAX_MESSAGE_BYTES} bytes, got {len(raw)}")
    if _too_deep(raw):
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
    try:
        return Envelope(
            id=event.id,
            source=event.source,
            name=event.type,
            version=event.eventversion,
            occurred_on=event.time if event.time.tzinfo else event.time.replace(tzinfo=UTC),
            payload=event.data,
            correlation_id=event.correlationid or event.id,
            causation_id=event.causationid,
            key=event.partitionkey,
            key_seq=None if event.sequence is None else int(event.sequence),
            incarnation=event.incarnation,
            traceparent=event.traceparent,
            tracestate=event.tracestate,
        )
    except ValueError as error:
        raise DecodeError("a message", path="$", expectation=str(error)) from None


def _too_deep(raw: bytes) -> bool:
    """Deeper than allowed, counted without building anything; brackets inside strings do not count."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    inside = escaped = False
    for byte in raw:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in (0x7B, 0x5B):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif byte in (0x7D, 0x5D):
            depth -= 1
    return False
