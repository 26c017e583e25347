"""What the bridge decides about a message of NestJS, and of us, without any server."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from cauce import Envelope, IntegrationEvent
from cauce.delivery.nestjs_bridge import ADOPTED, Inward, NestBridge
from cauce.errors import PublishError, TransportUnavailableError
from cauce.formats.cloudevents import MAX_MESSAGE_BYTES
from cauce.formats.nestjs import encode, read
from cauce.listeners.discovery import listeners_in
from cauce.listeners.effects import AtLeastOnce
from cauce.listeners.retry import Reject
from cauce.ports.lanes import Lane
from cauce.ports.transport import BrokerId, Deliver, Delivery, Status, Subscription


class OrderPaid(
    IntegrationEvent,
    name="shop.order-paid",
    version=1,
    key="order_id",
    source="shop",
    earlier_names=("shop.order-settled",),
):
    order_id: str
    cents: int


class Unheard(IntegrationEvent, name="shop.unheard", version=1, source="shop"):
    text: str


@dataclass
class Database:
    """Remembers what was written down; `trouble` is raised first, one after the other."""

    adopted: list[Envelope] = field(default_factory=list[Envelope])
    asked_about: list[Sequence[str]] = field(default_factory=list[Sequence[str]])
    trouble: list[Exception] = field(default_factory=list[Exception])

    async def adopt(self, envelope: Envelope, known_to: Sequence[str]) -> bool:
        self.asked_about.append(known_to)
        if self.trouble:
            raise self.trouble.pop(0)
        if any(one.id == envelope.id for one in self.adopted):
            return False
        self.adopted.append(envelope)
        return True


@dataclass
class Hearing:
    database: Database = field(default_factory=Database)
    counters: Counter[str] = field(default_factory=Counter[str])
    answered: int = 0

    async def hear(self, raw: bytes, *, name: str = "shop.order-paid") -> None:
        inward = Inward(
            service="mailing",
            types={"shop.order-paid": OrderPaid, "shop.order-settled": OrderPaid, "shop.unheard": Unheard},
            consumers={OrderPaid: ["mailing/thank"]},
            adopt=self.database.adopt,
            is_infrastructure=lambda error: isinstance(error, ConnectionError),
            count=lambda what: self.counters.update([what]),
        )

        async def answer() -> None:
            self.answered += 1

        packet = read(raw, name=name)
        await inward.take(
            Delivery(
                channel=name,
                raw=raw,
                envelope=packet.envelope,
                problem=packet.problem,
                headers=packet.headers,
                ack=answer,
            )
        )


def packet(*, payload: str = '{"order_id":"o-7","cents":990}', service: str = "shop", event_id: str = "e-1") -> bytes:
    return (
        f'{{"pattern":"shop.order-paid","data":{{"service":"{service}","name":"shop.order-paid","payload":{payload},'
        f'"id":"{event_id}","occurredOn":"2026-11-24T10:00:00.000Z"}}}}'
    ).encode()


# --- inward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shop.order-paid", "shop.order-settled"])
async def test_an_adopted_event_is_stored_with_its_name_its_key_and_the_mark_of_its_origin(
    name: str,
) -> None:
    hearing = Hearing()

    await hearing.hear(packet(), name=name)
    await hearing.hear(packet(), name=name)

    [envelope] = hearing.database.adopted
    assert (envelope.id, envelope.name, envelope.source, envelope.key) == ("e-1", "shop.order-paid", "shop", "o-7")
    assert (envelope.incarnation, envelope.key_seq) == (ADOPTED, None)
    assert hearing.database.asked_about == [["mailing/thank"]] * 2
    assert hearing.counters == {"bridged": 1, "bridge_known": 1}
    assert hearing.answered == 2


async def test_what_a_bridge_of_ours_said_is_not_taken_for_nestjs() -> None:
    hearing = Hearing()

    await hearing.hear(encode(Envelope.of(OrderPaid(order_id="o-7", cents=990)), durable=True))

    assert hearing.database.adopted == []
    assert hearing.counters == {}
    assert hearing.answered == 1


async def test_events_without_a_listener_are_counted() -> None:
    hearing = Hearing()

    await hearing.hear(packet(payload='{"text":"?"}'), name="shop.unheard")

    assert hearing.counters == {"bridge_unheard": 1}


async def test_a_payload_that_does_not_fit_is_handed_on_and_becomes_a_dead_letter() -> None:
    hearing = Hearing()

    await hearing.hear(packet(payload='{"order_id":7}'))

    [envelope] = hearing.database.adopted
    assert envelope.key is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"not json", "not JSON"),
        (b'{"pattern":"p","data":{"order_id":"o-7","cents":1}}', "it has no id"),
        (packet(service="billing"), "'billing' published it, and shop.order-paid is shop's"),
    ],
)
async def test_what_cannot_be_taken_over_is_one_line_without_its_content(
    raw: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    hearing = Hearing()

    await hearing.hear(raw)

    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert said in record.getMessage()
    assert "o-7" not in record.getMessage()
    assert hearing.counters == {"bridge_refused": 1}
    assert hearing.database.adopted == []
    assert hearing.answered == 1


async def test_an_event_without_a_service_is_its_declared_sources() -> None:
    hearing = Hearing()

    await hearing.hear(
        b'{"pattern":"p","data":{"id":"e-1","payload":{"order_id":"o-7","cents":1},"occurredOn":"2026-01-01T00:00:00Z"}}'
    )

    assert [one.source for one in hearing.database.adopted] == ["shop"]


async def test_a_database_that_is_away_is_waited_for() -> None:
    hearing = Hearing()
    hearing.database.trouble = [ConnectionError(), ConnectionError()]

    await hearing.hear(packet())

    assert [one.id for one in hearing.database.adopted] == ["e-1"]
    assert hearing.counters == {"bridged": 1}


@pytest.mark.parametrize("error", [ValueError("a NUL in a text"), PublishError(f"more than {MAX_MESSAGE_BYTES} bytes")])
async def test_what_the_database_rejects_permanently_is_refused_and_not_retried(error: Exception) -> None:
    hearing = Hearing()
    hearing.database.trouble = [error]

    await hearing.hear(packet())

    assert hearing.counters == {"bridge_refused": 1}


# --- outward ----------------------------------------------------------------------------------------------------


class Wire:
    name = "redis"
    durable = False

    def __init__(self, trouble: Exception | None = None) -> None:
        self.published: list[Envelope] = []
        self.trouble = trouble

    async def publish(self, lane: Lane, batch: Sequence[Envelope]) -> Sequence[BrokerId]:
        if self.trouble:
            raise self.trouble
        self.published += batch
        return [BrokerId(one.id) for one in batch]

    async def run(self, subscription: Subscription, deliver: Deliver, status: Status) -> None:
        raise NotImplementedError

    async def close(self) -> None: ...


PAID = OrderPaid(order_id="o-7", cents=990)


async def test_the_outward_listener_has_a_stable_name_and_may_repeat_after_a_crash() -> None:
    problems: list[str] = []

    [listener] = listeners_in(NestBridge(Wire()).outward([OrderPaid]), problems)

    assert problems == []
    assert listener.name == NestBridge.listener_name
    assert listener.registration.effect == AtLeastOnce()


async def test_outward_goes_what_is_ours_and_not_what_nestjs_said() -> None:
    wire = Wire()
    tell_nestjs = NestBridge(wire).outward([OrderPaid])
    ours = Envelope.of(PAID)
    hearing = Hearing()
    await hearing.hear(packet())
    [theirs] = hearing.database.adopted

    await tell_nestjs(PAID, ours)
    await tell_nestjs(PAID, theirs)

    assert wire.published == [ours]


async def test_a_broker_that_is_away_is_no_fault_of_the_event_and_one_it_cannot_carry_is() -> None:
    away = NestBridge(Wire(TransportUnavailableError("no Redis"))).outward([OrderPaid])
    too_large = NestBridge(Wire(PublishError("too large for NestJS's transport"))).outward([OrderPaid])

    with pytest.raises(TransportUnavailableError):
        await away(PAID, Envelope.of(PAID))
    with pytest.raises(Reject):
        await too_large(PAID, Envelope.of(PAID))
