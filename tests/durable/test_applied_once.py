"""H36–H38: an effect and the memory of it are one transaction; nothing is acknowledged before it."""

import asyncio
import os
import signal

import pytest
from cauce import Envelope, Retry, Service
from cauce.delivery.inbox.attempts import Attempts
from cauce.events.envelope import Emission
from cauce.formats.cloudevents import from_json
from cauce.formats.decoding import typed
from cauce.ports.lanes import LANES, Lane
from cauce.service.run import Run
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from testsupport.databases import query
from testsupport.durable import scenarios
from testsupport.durable.harness import World
from testsupport.durable.program import prepare
from testsupport.durable.shop import LEDGER, Counted, listener
from testsupport.long_form import PROVE
from testsupport.waiting import eventually

_QUICK = scenarios.HASTY
_LIVES = 50 if PROVE else 4


@pytest.mark.parametrize("point", ["before_commit", "commit_sent", "before_ack", "after_ack"])
def test_h36_a_consumer_killed_around_its_commit_loses_nothing_and_doubles_nothing(world: World, point: str) -> None:
    scenarios.consumers_killed_around_their_commit(world, point, lives=_LIVES)

    if point != "before_commit":
        assert len({fact["pid"] for fact in world.facts("called")}) > 1


def test_h36_a_listener_that_raises_leaves_no_effect_and_loses_nothing(world: World) -> None:
    plan = [(f"k{no % 10}", "fail:2") for no in range(50)]
    world.consumer()
    world.producer(plan)
    world.written(len(plan))

    world.converges()

    assert len(world.facts("called")) >= 150, "twice in vain, each of them"


def test_h37_one_event_given_to_eight_workers_at_once_is_applied_once_by_each_consumer(world: World) -> None:
    """Eight connections, the same delivery, at the same moment: the inbox row decides. A third fail the first time."""
    asyncio.run(_eight_at_once(world))
    rows = query(world.ledger, "SELECT consumer, event_id, count(*) FROM ledger GROUP BY consumer, event_id")
    assert len(rows) == 2 * 60
    assert {count for _, _, count in rows} == {1}


async def _eight_at_once(world: World) -> None:
    os.environ["HISTORY"] = str(world.history)
    store = SqlAlchemyStore(create_engine(world.ledger))
    await store.prepare()
    await prepare(store.engine)
    retry = Retry(attempts=3, base=60, cap=60)
    listeners = [listener(name, retry, limit_s=30) for name in ("one", "other")]
    services = [
        Service(
            LEDGER,
            modules=listeners,
            store=SqlAlchemyStore(create_engine(world.ledger)),
            transport=RedisStreams(world.broker),
            start="retained",
        )
        for _ in range(8)
    ]
    workers = [_attempts(service) for service in services]
    heard = services[0].listeners
    failed = 0
    for no in range(60):
        event = Counted(no=no, does="fail:1 sleep:0.02" if no % 3 == 0 else "sleep:0.02")
        envelope = Envelope.of(event)
        emission = Emission(event, None, envelope.source, envelope)
        outcomes = await asyncio.gather(*(worker.first(one, emission, "a") for worker in workers for one in heard))
        assert outcomes.count("duplicate") == 14, outcomes
        failed += outcomes.count("waiting")
    assert failed == 40
    query(world.ledger, "UPDATE cauce_waiting SET next_at = 0", write=True)
    by_name = {f"{LEDGER}/{one.name}": one for one in heard}
    for waiting in await store.message_store().due([Lane(lane) for lane in range(LANES)], limit=500):
        emission = typed(from_json(waiting.message), Counted)
        outcomes = await asyncio.gather(*(w.again(by_name[waiting.consumer], emission, waiting) for w in workers))
        assert sorted(outcomes) == ["handled"] + ["not_due"] * 7
    for service in services:
        await service.store.close()
    await store.close()


def _attempts(service: Service) -> Attempts:
    """What a run of the service would apply deliveries with; nothing else of it is started."""
    run = Run(service._wiring, service._units_of_work, service._dispatcher, service._happenings, service._options)
    assert run._durable is not None
    return run._durable._workers._attempts


@pytest.mark.parametrize(("key", "becomes"), [("k", []), (None, ["too old to dedupe"])])
def test_h38_a_copy_older_than_the_inbox_is_recognised_by_its_key_or_dead_and_never_run(
    world: World, key: str | None, becomes: list[str]
) -> None:
    world.producer([(key, "")])
    assert world.consumer(fault="before_ack:1", pace=_QUICK).ended() == -signal.SIGKILL
    assert world.applied() == 1
    assert world.in_groups() == (1, 0), "applied, and still to be acknowledged"
    query(world.ledger, "DELETE FROM cauce_inbox", write=True)  # as pruning does when it is old enough

    world.consumer(pace=_QUICK, keep={"inbox_s": 0.001})

    eventually(lambda: world.in_groups() == (0, 0), what="it is acknowledged")
    assert len(world.facts("called")) == 1, "and not run again"
    assert [reason for _, _, reason in world.dead()] == becomes
    assert len(world.converges().ledger) == 1 if key else world.applied() == 1
