"""Goal 14: what an event's id, time and envelope cost to make and to write down, beside pydantic and `uuid4`."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec

import msgspec
from cauce import Envelope, IntegrationEvent
from cauce.formats import nestjs as nest_wire
from cauce.formats.decoding import decode
from rounds import Way

__all__ = ["codec_ways", "creation_ways", "nest_ways"]

NAME = "com.clonespotify.accounts.integration.user-created"


class UserCreated(IntegrationEvent, name=NAME, version=1, key="id", source="accounts-ms"):
    id: str
    username: str
    email: str


USER = UserCreated(id="5cf44d3b-e2d4-4e5c-8a0b-1c2d3e4f5a6b", username="ada", email="ada@example.org")


def creation_ways() -> Iterator[Way]:
    """A new event with id, time and envelope: the struct itself included."""

    def new_event(times: int) -> None:
        for _ in range(times):
            Envelope.of(UserCreated(id="u-1", username="ada", email="ada@example.org"))

    def one_uuid4(times: int) -> None:
        for _ in range(times):
            uuid.uuid4()

    yield Way(name="cauce: new event, id, time, envelope", run=new_event)
    yield Way(name="uuid.uuid4()", run=one_uuid4)


class _OnWire(Envelope, frozen=True, kw_only=True):
    """As it is read: the payload stays bytes until the listener's type is known."""

    payload: msgspec.Raw  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]  # narrower, frozen


def codec_ways() -> Iterator[Way]:
    """An envelope to JSON bytes and back to an envelope with a typed payload."""
    envelope = Envelope.of(USER)
    encoder, decoder = msgspec.json.Encoder(), msgspec.json.Decoder(_OnWire)
    payload_decoder = msgspec.json.Decoder(UserCreated)

    def with_msgspec(times: int) -> None:
        for _ in range(times):
            read = decoder.decode(encoder.encode(envelope))
            assert payload_decoder.decode(read.payload).username == "ada"

    yield Way(name="cauce: encode + decode", run=with_msgspec)
    if find_spec("pydantic"):
        yield _pydantic(envelope)


def nest_ways() -> Iterator[Way]:
    """What travels over Redis Pub/Sub today: NestJS's packet, byte for byte, checked strictly when read."""
    envelope = Envelope.of(USER)

    def nest(times: int) -> None:
        for _ in range(times):
            packet = nest_wire.read(nest_wire.encode(envelope), name=NAME)
            assert packet.envelope is not None
            assert isinstance(packet.envelope.payload, msgspec.Raw)
            assert decode(packet.envelope.payload, UserCreated) == USER

    yield Way(name="cauce: NestJS packet", run=nest)
    if find_spec("pydantic"):
        yield _pydantic(envelope)


def _pydantic(envelope: Envelope) -> Way:
    from pydantic import BaseModel, ConfigDict

    class User(BaseModel):
        model_config = ConfigDict(frozen=True)
        id: str
        username: str
        email: str

    class Model(BaseModel):
        model_config = ConfigDict(frozen=True)
        id: str
        source: str
        name: str
        version: int
        occurred_on: datetime
        payload: User
        correlation_id: str
        causation_id: str | None = None
        key: str | None = None
        key_seq: int | None = None
        incarnation: str | None = None
        traceparent: str | None = None
        tracestate: str | None = None

    model = Model(
        id=envelope.id,
        source=envelope.source,
        name=envelope.name,
        version=1,
        occurred_on=datetime.now(UTC),
        payload=User(id=USER.id, username=USER.username, email=USER.email),
        correlation_id=envelope.correlation_id,
        key=envelope.key,
    )

    def with_pydantic(times: int) -> None:
        for _ in range(times):
            assert Model.model_validate_json(model.model_dump_json()).payload.username == "ada"

    return Way(name="pydantic", run=with_pydantic)
