"""Real NestJS services beside Redis Streams: what they hear of us, what we hear of them, and nothing of it twice."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from cauce import ConfigurationError, Context, IntegrationEvent, NestBridge, Pace, Service, on
from cauce.dev.servers import PostgresServer, ValkeyServer
from cauce.ports.lanes import LANES, Lane
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis.stream_keys import FIELD, StreamKeys
from cauce.transports.redis_pubsub import RedisPubSub
from cauce.transports.redis_streams import RedisStreams
from contracts.accounts import NEST_NAMES, UserCreated, UserDeleted, UserUpdated
from redis.asyncio import Redis
from sqlalchemy import text
from testsupport.nest_peers import NestPeer
from testsupport.waiting import until

ARTICLE_NAME = "com.clonespotify.accounts.users.integration.user-updated"
JOHN = UserCreated(id="12345678-1234-1234-1234-123456789abc", username="john_doe", email="john.doe@example.com")
JOHN_AS_SENT = {"id": JOHN.id, "username": JOHN.username, "email": JOHN.email}
FROM_NESTJS = {
    "service": "accounts-ms",
    "name": ARTICLE_NAME,
    "payload": JOHN_AS_SENT,
    "id": "r8ScC5wB5NHPWv6wHTLZ59",
    "occurredOn": "2024-02-12T12:00:00.000Z",
}
QUICK = Pace(lease_s=2.0, beat_every_s=0.3)


class Ledger:
    """What mailing-ms did, without any uniqueness that would hide a repeat."""

    def __init__(self) -> None:
        self.heard: list[tuple[IntegrationEvent, Context]] = []

    @on(UserCreated, UserDeleted, name="ledger")
    async def note(self, event: IntegrationEvent, context: Context) -> None:
        self.heard.append((event, context))


class World:
    """Services on one Valkey, each name with one database, each with a bridge unless it is told not to."""

    def __init__(self, valkey: ValkeyServer, new_database: Callable[[str], str]) -> None:
        self.valkey = valkey
        self.ledger = Ledger()
        self._new_database = new_database
        self._urls: dict[str, str] = {}
        self._stack = AsyncExitStack()
        self.redis: Any = cast("Any", Redis).from_url(valkey.url, protocol=2)

    def service(self, name: str, *, bridge: bool = True, **options: Any) -> Service:
        url = self._urls.setdefault(name, self._new_database(name.replace("-", "_")))
        wire = RedisPubSub(self.valkey.url, nest_names=NEST_NAMES, durable=True)
        return Service(
            name,
            store=SqlAlchemyStore(create_engine(url)),
            transport=RedisStreams(self.valkey.url),
            bridge=NestBridge(wire) if bridge else None,
            pace=QUICK,
            **options,
        )

    def accounts(self, *, bridge: bool = True) -> Service:
        return self.service("accounts-ms", publishes=[UserCreated, UserUpdated, UserDeleted], bridge=bridge)

    def mailing(self, *, bridge: bool = True) -> Service:
        return self.service("mailing-ms", modules=[self.ledger], start="retained", bridge=bridge)

    async def run(self, *services: Service) -> None:
        for service in services:
            await self._stack.enter_async_context(service)
            # A start waits two seconds for the broker; a busy machine may need more.
            await until(lambda service=service: not service.readiness(), what=f"{service.name} is ready")

    async def topic(self, source: str = "accounts-ms") -> list[dict[str, Any]]:
        streams = [await self.redis.xrange(StreamKeys("cauce").stream(source, Lane(lane))) for lane in range(LANES)]
        return [json.loads(fields[FIELD]) for stream in streams for _, fields in stream]

    async def subscribed(self, count: int = 1) -> None:
        async def is_so() -> bool:
            [(_, found)] = await self.redis.pubsub_numsub(ARTICLE_NAME)
            return found == count

        await until(is_so, f"{count} subscribe {ARTICLE_NAME}")

    async def outbox(self, service: Service) -> list[tuple[str, str, bool]]:
        """Topic, event id and whether it is sent."""
        async with service.transaction(read_only=True) as tx:
            rows = await tx.session.execute(
                text(
                    "SELECT topic, event_id, true AS is_sent, position FROM cauce_sent "
                    "UNION ALL SELECT topic, event_id, false, position FROM cauce_outbox ORDER BY position"
                )
            )
            return [(row.topic, row.event_id, bool(row.is_sent)) for row in rows]

    async def dead(self, service: Service) -> list[Any]:
        async with service.transaction(read_only=True) as tx:
            return list(
                (await tx.session.execute(text("SELECT consumer, reason, message FROM cauce_dead_letter"))).all()
            )

    async def close(self) -> None:
        await self._stack.aclose()
        await self.redis.aclose()


@asynccontextmanager
async def a_world(valkey: ValkeyServer, new_database: Callable[[str], str]) -> AsyncGenerator[World]:
    world = World(valkey, new_database)
    try:
        yield world
    finally:
        await world.close()


@pytest.fixture
async def on_sqlite(valkey: ValkeyServer, tmp_path: Path) -> AsyncGenerator[World]:
    async with a_world(valkey, lambda name: f"sqlite+aiosqlite:///{tmp_path}/{name}.sqlite") as world:
        yield world


@pytest.fixture(params=["sqlite", "postgresql"])
async def world(request: pytest.FixtureRequest, valkey: ValkeyServer, tmp_path: Path) -> AsyncGenerator[World]:
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        new_database: Callable[[str], str] = lambda _: postgres.database()  # noqa: E731
    else:
        new_database = lambda name: f"sqlite+aiosqlite:///{tmp_path}/{name}.sqlite"  # noqa: E731
    async with a_world(valkey, new_database) as made:
        yield made


async def publish(service: Service, *events: IntegrationEvent) -> None:
    for event in events:
        async with service.transaction() as tx:
            await tx.publish(event)


async def at_rest(world: World, *services: Service) -> None:
    """Nothing is under way, and nothing waits in a topic, ten times in a row."""

    async def quiet() -> bool:
        for service in services:
            if service.unfinished or any(not sent for _, _, sent in await world.outbox(service)):
                return False
        for lane in range(LANES):
            stream = StreamKeys("cauce").stream("accounts-ms", Lane(lane))
            if not await world.redis.exists(stream):
                continue
            for group in await world.redis.xinfo_groups(stream):
                rest = await world.redis.xrange(stream, min=b"(" + group["last-delivered-id"])
                if group["pending"] or rest:
                    return False
        return True

    seen = 0

    async def still() -> bool:
        nonlocal seen
        seen = seen + 1 if await quiet() else 0
        return seen > 10

    await until(still, "everything comes to rest")


# --- outward --------------------------------------------------------------------------------------------------


async def test_nestjs_hears_each_of_our_events_once_whatever_the_number_of_replicas(
    nest: NestPeer, world: World
) -> None:
    await nest.listen(
        {"kind": "message", "pattern": ARTICLE_NAME},
        {"kind": "event", "pattern": "com.clonespotify.accounts.users.integration.user-deleted"},
    )
    await world.subscribed()
    replicas = [world.accounts(), world.accounts()]
    mailing = world.mailing()
    await world.run(*replicas, mailing)

    for number in range(10):
        user = UserCreated(id=f"user-{number}", username=f"name-{number}", email="a@b.example")
        await publish(replicas[number % 2], user, UserDeleted(id=user.id))
    await nest.hears(20)
    await until(lambda: len(world.ledger.heard) == 20, "our own service hears them too")
    await at_rest(world, *replicas, mailing)

    assert len(nest.heard) == 20
    assert len(world.ledger.heard) == 20
    assert len(await world.outbox(replicas[0])) == 20
    assert await world.outbox(mailing) == [], "nobody brought our own events back in"
    assert len({event["id"] for event in await world.topic()}) == 20, "a lane that changes hands may be sent twice"
    for number in range(10):
        of_user = [call for call in nest.heard if call.data["payload"]["id"] == f"user-{number}"]
        assert [call.handler for call in of_user] == [0, 1], "in the order of their key"
        assert of_user[0].channel == of_user[0].data["name"] == ARTICLE_NAME
        assert list(of_user[0].data) == ["service", "name", "payload", "id", "occurredOn"]


async def test_to_a_broker_that_lost_its_data_events_are_resent_and_nestjs_hears_nothing_twice(
    nest: NestPeer, on_sqlite: World
) -> None:
    world = on_sqlite
    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})
    await world.subscribed()
    accounts = world.accounts()
    await world.run(accounts)
    for number in range(5):
        await publish(accounts, UserCreated(id=f"{number}", username="before", email=""))
    await nest.hears(5)
    await at_rest(world, accounts)

    await world.redis.flushall()
    for number in range(16):
        await publish(accounts, UserCreated(id=f"after-{number}", username="after", email=""))
    await nest.hears(5 + 16)
    await at_rest(world, accounts)
    assert accounts.counters["refed"] >= 1

    assert sorted(call.data["payload"]["id"] for call in nest.heard) == sorted(
        [*(f"{number}" for number in range(5)), *(f"after-{number}" for number in range(16))]
    )


async def test_a_bridge_that_is_switched_on_tells_nothing_of_before(nest: NestPeer, on_sqlite: World) -> None:
    world = on_sqlite
    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})
    await world.subscribed()
    async with world.accounts(bridge=False) as without:
        await publish(without, JOHN)
        await at_rest(world, without)
    assert nest.heard == [], "without a bridge NestJS's wire is silent"

    accounts = world.accounts()
    await world.run(accounts)
    await publish(accounts, UserCreated(id="2", username="ana", email=""))
    await nest.hears(1)
    await at_rest(world, accounts)

    assert [call.data["payload"]["id"] for call in nest.heard] == ["2"]


# --- inward ---------------------------------------------------------------------------------------------------


async def test_a_nestjs_event_that_is_sent_twice_has_one_effect_in_all_replicas_together(
    nest: NestPeer, world: World
) -> None:
    replicas = [world.mailing(), world.mailing(), world.mailing()]
    await world.run(*replicas)

    for _ in range(2):
        await nest.do("emit", pattern=ARTICLE_NAME, data=FROM_NESTJS)
    await until(lambda: bool(world.ledger.heard), "the event")
    await until(lambda: sum(one.counters["bridge_known"] for one in replicas) == 5, "five copies are recognised")
    await at_rest(world, *replicas)

    [(event, context)] = world.ledger.heard
    assert event == JOHN
    assert (context.event_id, context.source) == ("r8ScC5wB5NHPWv6wHTLZ59", "accounts-ms")
    assert context.name == "com.clonespotify.accounts.users.integration.user-created"
    assert context.envelope.occurred_on.isoformat() == "2024-02-12T12:00:00+00:00"
    assert await world.outbox(replicas[0]) == [("accounts-ms", "r8ScC5wB5NHPWv6wHTLZ59", True)]
    [entry] = await world.topic()
    assert (entry["id"], entry["type"], entry["partitionkey"]) == (context.event_id, context.name, JOHN.id)


async def test_what_nestjs_says_is_not_said_to_it_again_and_has_one_effect_in_every_service(
    nest: NestPeer, on_sqlite: World
) -> None:
    world = on_sqlite
    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})
    await world.subscribed()
    other = Ledger()
    discovery = world.service("music-discovery-ms", modules=[other], start="retained")
    services = [world.accounts(), world.mailing(), discovery]
    await world.run(*services)

    sent = await nest.do("publishUserCreated", payload=JOHN_AS_SENT)
    await until(lambda: bool(world.ledger.heard and other.heard), "both services hear it")
    await at_rest(world, *services)

    assert [context.event_id for _, context in world.ledger.heard] == [sent["id"]]
    assert [context.event_id for _, context in other.heard] == [sent["id"]]
    assert [call.data["id"] for call in nest.heard] == [sent["id"]]


async def test_what_cannot_be_adopted_is_logged_and_what_does_not_fit_is_dead_with_its_bytes(
    nest: NestPeer, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    mailing = world.mailing()
    await world.run(mailing)

    await nest.do("emit", pattern=ARTICLE_NAME, data="hola")
    await nest.do("emit", pattern=ARTICLE_NAME, data=JOHN_AS_SENT | {"username": "no id of the event"})
    await nest.do("emit", pattern=ARTICLE_NAME, data=FROM_NESTJS | {"service": "billing-ms"})
    await nest.do("emit", pattern=ARTICLE_NAME, data=FROM_NESTJS | {"payload": {"id": 5}, "id": "poison"})
    await nest.do("emit", pattern=ARTICLE_NAME, data=FROM_NESTJS)
    await until(lambda: bool(world.ledger.heard), "the good one")
    await at_rest(world, mailing)

    assert mailing.counters["bridge_refused"] == 2 + 1
    assert [context.event_id for _, context in world.ledger.heard] == [FROM_NESTJS["id"]]
    [(consumer, reason, message)] = await world.dead(mailing)
    assert (consumer, reason) == ("mailing-ms/ledger", "undecodable")
    assert b'"poison"' in message
    for said in ("the data is a text", "it has no id", "'billing-ms' published it"):
        assert said in caplog.text
    assert "no id of the event" not in caplog.text


async def test_a_request_is_written_down_and_answered(nest: NestPeer, on_sqlite: World) -> None:
    await on_sqlite.run(on_sqlite.mailing())

    outcome = await nest.do("send", pattern=ARTICLE_NAME, data=FROM_NESTJS, limitMs=10_000)

    assert outcome == {"answers": []}
    await until(lambda: bool(on_sqlite.ledger.heard), "the event")


async def test_while_our_database_is_away_a_nestjs_event_waits(
    nest: NestPeer, valkey: ValkeyServer, own_postgres: PostgresServer
) -> None:
    async with a_world(valkey, lambda name: own_postgres.create_database(name, role=name)) as world:
        mailing = world.mailing()
        await world.run(mailing)
        await asyncio.to_thread(own_postgres.kill)

        for number in range(3):
            await nest.do("emit", pattern=ARTICLE_NAME, data=FROM_NESTJS | {"id": f"during-the-outage-{number}"})
        await asyncio.to_thread(own_postgres.start)
        await until(lambda: len(world.ledger.heard) == 3, "all of them")
        await at_rest(world, mailing)

        assert len(world.ledger.heard) == 3
        assert await world.dead(mailing) == []


# --- wiring ---------------------------------------------------------------------------------------------------


def test_a_bridge_without_a_durable_transport_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a bridge joins NestJS to a durable transport"):
        Service(
            "accounts-ms",
            publishes=[UserCreated],
            transport=RedisPubSub("redis://localhost"),
            bridge=NestBridge(RedisPubSub("redis://localhost", durable=True)),
        )
