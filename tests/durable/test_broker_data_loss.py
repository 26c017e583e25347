"""H15, H16, H18–H23: whatever the broker loses, somebody still has, and nobody applies it twice."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from cauce.dev.servers import ScratchDatabases, ValkeyServer
from testsupport.databases import query
from testsupport.durable import scenarios
from testsupport.durable.harness import World
from testsupport.long_form import PROVE
from testsupport.waiting import eventually

_QUICK = scenarios.QUICK


def _copy(server: ValkeyServer, to: Path) -> None:
    """What is on the disk now; the server is asked to write it first."""
    with redis.Redis.from_url(server.url) as broker:
        broker.config_set("appendfsync", "always")
        broker.set("written", 1)
        broker.config_set("appendfsync", "everysec")
    shutil.copytree(server.folder / "data", to)


def _restored(server: ValkeyServer, copy: Path) -> None:
    """Killed, and its data replaced by those of an earlier moment."""
    server.kill()
    shutil.rmtree(server.folder / "data")
    shutil.copytree(copy, server.folder / "data")
    server.start()


def test_h15_to_a_broker_that_comes_back_empty_all_is_resent_and_applied_once(
    world_of_its_own: World, own_valkey: ValkeyServer
) -> None:
    world = world_of_its_own
    world.consumer(pace=_QUICK)
    producer = world.producer([(f"k{no % 7}" if no % 2 else None, "") for no in range(600)], every_s=0.002)
    world.reached(200)
    told = [len(process.lines()) for process in world.processes]

    scenarios.comes_back_empty(own_valkey)

    world.written(600)
    world.converges()
    for process, before in zip(world.processes, told, strict=True):
        assert len(process.lines()) - before < 20, "however many lanes, an outage is told in few lines"
    assert "are sent again" in producer.said()


def test_h15_events_that_waited_in_the_broker_for_an_absent_consumer_survive_its_emptying(
    world_of_its_own: World, own_valkey: ValkeyServer
) -> None:
    scenarios.an_emptied_broker(world_of_its_own, own_valkey)


def test_h18_to_a_broker_that_lost_its_tail_events_with_new_keys_are_resent_in_order(
    world_of_its_own: World, own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    world = world_of_its_own
    first = world.consumer(pace=_QUICK)
    world.producer([(f"k{no % 5}", "") for no in range(100)])
    world.reached(100)
    first.pause()
    _copy(own_valkey, tmp_path / "earlier")
    # From here on is the tail: new keys, and known ones. Nobody but the broker has seen them.
    more = [(f"k{no % 5}", "") for no in range(100)] + [
        (f"new{no % 9}" if no % 2 else f"k{no % 5}", "") for no in range(100)
    ]
    world.producer(more)
    world.written(200)
    eventually(lambda: not world.unsent(), what="the tail is in the broker")

    _restored(own_valkey, tmp_path / "earlier")
    first.resume()
    world.producer([*more, *((f"new{no % 9}", "") for no in range(60))])

    world.written(260)
    final = world.converges()
    assert len(final.ledger) == 260
    assert any("are sent again" in process.said() for process in world.processes)


def test_h20_a_group_whose_position_went_back_delivers_again_and_nothing_is_applied_twice(
    world_of_its_own: World, own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    world = world_of_its_own
    world.consumer(pace=_QUICK)
    producer = world.producer([(f"k{no % 7}" if no % 3 else None, "") for no in range(500)], every_s=0.002)
    world.reached(80)
    _copy(own_valkey, tmp_path / "earlier")
    world.reached(250)

    _restored(own_valkey, tmp_path / "earlier")

    world.written(500)
    world.converges()
    assert "are sent again" in producer.said()
    assert len(world.facts("called")) == 500, "repeats died in the inbox, before the listener"


def test_h19_the_streams_are_deleted_five_times_while_events_flow(world: World) -> None:
    scenarios.deleted_streams(world, times=5)


def test_h21_a_worker_killed_again_and_again_leaves_nothing_pending(world: World) -> None:
    kills = 50 if PROVE else 8
    world.producer([(f"k{no % 9}" if no % 2 else None, "") for no in range(60 * kills)], every_s=0.004)
    for _ in range(kills):
        seen = world.applied()
        consumer = world.consumer(pace=scenarios.HASTY)
        eventually(lambda seen=seen: world.applied() > seen + 10)
        consumer.kill()

    world.consumer(pace=_QUICK)
    world.written(60 * kills)

    world.converges()
    assert {process.exit_code() for process in world.processes[1:-1]} == {-signal.SIGKILL}


def test_h22_a_pending_entry_that_was_deleted_is_counted_and_resent_by_the_producer(
    world: World,
) -> None:
    consumer = world.consumer(pace=_QUICK, fault="before_commit:1")
    world.producer([(None, "") for _ in range(20)], pace=(1.5, 0.4, 1.0, 30.0))
    assert consumer.ended() == -signal.SIGKILL
    eventually(lambda: not world.unsent())
    with redis.Redis.from_url(world.broker) as broker:
        pending = [
            (stream, entry["message_id"])
            for stream in world.streams()
            for entry in broker.xpending_range(stream, "ledger", "-", "+", 100)
        ]
        stream, entry = pending[0]
        broker.xdel(stream, entry)

    again = world.consumer(pace=_QUICK)

    world.converges()
    assert "was deleted before it was acknowledged" in again.said()


def test_h23_scaling_from_five_to_one_and_back_under_load_loses_nothing(world: World) -> None:
    scenarios.scaled_up_and_down(world, events=2400 if PROVE else 400)


def test_h16_trimming_takes_nothing_from_a_paused_consumer_or_a_group_that_never_read(world: World) -> None:
    scenarios.trimmed_beside_a_paused_consumer(world)

    with redis.Redis.from_url(world.broker) as broker:
        broker.hdel("cauce:{shop}:groups", "never")
    eventually(lambda: world.copies() == 0, what="then nothing is kept longer than asked for")
    world.converges()


def test_a_group_that_was_away_longer_than_every_retention_applies_what_it_never_saw(world: World) -> None:
    plan = [(f"k{no % 5}" if no % 2 else None, "") for no in range(120)]
    forgetful = {"inbox_s": 0.3, "sent_s": 0.3, "broker_s": 0.3}
    pace = (1.5, 0.4, 60.0, 0.2)
    consumer = world.consumer(pace=pace, keep=forgetful)
    producer = world.producer(plan[:60], pace=pace, keep=forgetful)
    world.reached(60)
    eventually(lambda: world.in_groups() == (0, 0))
    assert consumer.stop() == 0
    producer.stop()
    world.producer(plan, pace=pace, keep=forgetful)
    world.written(120)
    eventually(lambda: _outbox(world) == 0, what="the producer has forgotten what it sent")

    world.consumer(pace=pace, keep=forgetful)

    final = world.converges()
    assert len(final.ledger) == 120


def _outbox(world: World) -> int:
    return int(
        query(world.shop, "SELECT (SELECT count(*) FROM cauce_outbox) + (SELECT count(*) FROM cauce_sent)")[0][0]
    )


@pytest.mark.parametrize("start", ["retained", "now"])
def test_a_group_that_joins_late_begins_where_it_says(
    world: World, make_world: Callable[..., World], postgres: ScratchDatabases, start: str
) -> None:
    world.consumer(pace=_QUICK)
    world.producer(100)
    world.reached(100)
    latecomer = make_world(broker=world.broker, shop=world.shop, ledger=postgres.database())
    latecomer.consumers = ["late"]
    latecomer.consumer(service="latecomer", listeners=("late",), start=start, pace=_QUICK)
    eventually(lambda: _has_groups(world, "latecomer"), what="its groups are there")

    world.producer(150)
    world.converges()

    if start == "retained":
        latecomer.converges()
    else:
        assert latecomer.applied("late") == 50
        assert {row.no for row in latecomer.final().ledger} == set(range(101, 151))


def _has_groups(world: World, group: str) -> bool:
    with redis.Redis.from_url(world.broker) as broker:
        return all(any(one["name"] == group.encode() for one in broker.xinfo_groups(s)) for s in world.streams())
