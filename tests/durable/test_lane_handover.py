"""H07, H08, H25, H26, H49: processes die, freeze, wake and restart, and every lane always has one owner in the end."""

import time

import httpx
import pytest
from cauce.dev.ports import choose_port
from cauce.dev.servers import PostgresServer, ValkeyServer
from testsupport.databases import query
from testsupport.durable import scenarios
from testsupport.durable.harness import Running, World
from testsupport.waiting import eventually

_LEASE_S = 2.0
_QUICK = (_LEASE_S, 0.5, 60.0, 30.0)
_HASTY = (0.8, 0.2, 60.0, 30.0)
_AS_SHIPPED = (10.0, 3.0, 60.0, 30.0)


def _all_owned(world: World, database: str, among: list[Running]) -> bool:
    owned = [world.lanes_of(database, process) for process in among]
    return sum(map(len, owned)) == 16 and set().union(*owned) == set(range(16))


def test_h07_when_the_two_relays_with_most_lanes_are_killed_the_third_has_them_all_soon(world: World) -> None:
    world.consumer()
    relays = [world.producer([(f"k{no}", "") for no in range(200)], pace=_QUICK, every_s=0.01)]
    relays += [world.producer(pace=_QUICK) for _ in range(2)]
    eventually(lambda: _all_owned(world, world.shop, relays) and world.shares(world.shop) == [6, 5, 5])
    survivor = min(relays[1:], key=lambda one: len(world.lanes_of(world.shop, one)))
    others = [one for one in relays if one is not survivor]
    world.written(200)
    for one in others:
        one.kill()
    killed_at = time.monotonic()

    eventually(lambda: _all_owned(world, world.shop, [survivor]), what="every lane is owned again")

    assert time.monotonic() - killed_at < 2 * _LEASE_S
    world.converges()


def test_h07_a_process_with_unowned_lanes_is_not_ready_within_two_leases(world: World) -> None:
    port = choose_port()
    world.consumer(pace=_HASTY, health_port=port)
    eventually(lambda: _not_ready(port) == {}, what="it is ready")
    query(
        world.ledger,
        "INSERT INTO cauce_member (id, lease_until) VALUES ('has a lease and takes nothing', 4102444800)",
        write=True,
    )

    said = eventually(lambda: _not_ready(port), what="it is not ready")

    idle = sorted(lane for lane, owner in world.owners(world.ledger).items() if owner is None)
    assert len(idle) == 8, "half of the lanes are left to the other"
    assert f"no process owns lane {', '.join(map(str, idle))}:" in said["lanes"]
    query(world.ledger, "DELETE FROM cauce_member WHERE lease_until = 4102444800", write=True)
    eventually(lambda: _not_ready(port) == {}, what="it is ready again")
    world.producer(40)
    world.written(40)
    world.converges()


def _not_ready(port: int) -> dict[str, str] | None:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5)
    except httpx.TransportError:
        return None
    found: dict[str, str] = answer.json()["not_ready"]
    assert answer.status_code == (503 if found else 200)
    return found


def test_a_third_instance_has_its_fair_share_within_ten_seconds_at_the_pace_as_shipped(world: World) -> None:
    first, second = world.consumer(pace=_AS_SHIPPED), world.consumer(pace=_AS_SHIPPED)
    world.producer(400, every_s=0.01)
    eventually(lambda: world.shares(world.ledger) == [8, 8])
    third = world.consumer(pace=_AS_SHIPPED)
    began = time.monotonic()

    eventually(lambda: len(world.lanes_of(world.ledger, third)) >= 4, what="the third has its share")

    assert time.monotonic() - began < 10
    world.converges()
    assert all(one.stop() == 0 for one in (first, second, third))


def test_kill_9_delays_only_the_lanes_of_the_dead_by_at_most_lease_and_two_seconds(world: World) -> None:
    first, second = world.consumer(pace=_QUICK), world.consumer(pace=_QUICK)
    eventually(lambda: world.shares(world.ledger) == [8, 8])
    lanes = world.lanes_of(world.ledger, first)
    survivors_lanes = world.lanes_of(world.ledger, second)
    first.kill()
    killed_at = time.monotonic()
    world.producer([(f"k{no}", "") for no in range(64)])

    eventually(lambda: world.lanes_of(world.ledger, second) >= lanes, what="the lanes are taken over")
    taken_s = time.monotonic() - killed_at

    assert taken_s < _LEASE_S + 2
    world.converges()
    assert len(survivors_lanes) == 8


def test_h08_rolling_restarts_with_a_listener_slower_than_the_lease_repeat_nothing(
    world: World,
) -> None:
    plan = [(None, "sleep:1.5") for _ in range(40)]
    instances = [world.consumer(pace=_HASTY) for _ in range(3)]
    world.producer(plan)
    world.written(len(plan))
    for at, instance in enumerate(list(instances)):
        world.reached(4 + 6 * at)
        instances[at] = world.consumer(pace=_HASTY)
        assert instance.stop() == 0

    final = world.converges()

    assert len(final.ledger) == len(plan)
    assert len(world.facts("called")) == len(plan), "nothing was even begun twice: what ran was waited for"


def test_h08_a_failing_listener_runs_again_alone(world: World) -> None:
    world.consumers.append("other")
    world.consumer(listeners=("ledger", "other"))
    world.producer([("a", "fail:3"), ("b", ""), (None, "fail:1")])
    world.written(3)

    world.converges()

    calls = [(fact["consumer"], fact["no"]) for fact in world.facts("called")]
    assert {one: calls.count((one, 1)) for one in ("ledger", "other")} == {"ledger": 4, "other": 4}
    assert calls.count(("ledger", 2)) == calls.count(("other", 2)) == 1


def test_h25_a_listener_that_takes_five_leases_is_begun_once(world: World) -> None:
    workers = [world.consumer(pace=_HASTY) for _ in range(3)]
    world.producer([(f"k{no}", "sleep:4") for no in range(8)])
    world.written(8)

    world.converges()

    assert len(world.facts("called")) == 8
    assert all(worker.alive for worker in workers)


def test_h25_h26_a_process_frozen_in_its_transaction_is_replaced_and_changes_nothing(
    world: World,
) -> None:
    zombie = world.consumer(pace=_QUICK, limit_s=1.0, fault="before_commit:1:stop")
    world.producer([("k", ""), ("k", "")])
    eventually(lambda: world.struck("before_commit"), what="it is frozen before its COMMIT")
    frozen_at = time.monotonic()
    world.consumer(pace=_QUICK)

    world.reached(2)
    # The lease, then what the database grants an idle transaction: the listener's limit and five seconds.
    assert time.monotonic() - frozen_at < _LEASE_S + 1.0 + 5.0 + 2.0
    zombie.resume()
    world.producer([("k", "")] * 4)

    final = world.converges()
    assert len(final.ledger) == 4
    assert zombie.alive
    assert {row.no for row in final.ledger} == {1, 2, 3, 4}


def test_h26_an_acknowledgement_of_a_zombie_comes_after_the_effect_or_not_at_all(world: World) -> None:
    zombie = world.consumer(pace=_QUICK, fault="before_ack:1:stop")
    world.producer([("k", ""), ("k", "sleep:1"), ("k", "")])
    eventually(lambda: world.struck("before_ack"), what="it is frozen between its commit and its acknowledgement")
    world.consumer(pace=_QUICK)
    eventually(lambda: len({fact["pid"] for fact in world.facts("called")}) == 2, what="the other one goes on")

    zombie.resume()

    world.converges()
    assert len(world.facts("called")) == 3, "the first was known to the inbox"


@pytest.mark.parametrize("reads", [3, 8])
def test_a_zombie_whose_read_takes_entries_of_a_lane_it_has_lost_breaks_no_order(world: World, reads: int) -> None:
    scenarios.woken_with_lanes_of_others(world, reads=reads)


def test_h25_a_single_process_frozen_longer_than_its_lease_continues_in_order(world: World) -> None:
    scenarios.asleep_longer_than_its_lease(world)


def test_h49_servers_that_answer_nothing_for_a_while_cost_time_and_no_restart(
    world_of_its_own: World, own_valkey: ValkeyServer, own_postgres: PostgresServer
) -> None:
    world = world_of_its_own
    world.ledger = own_postgres.create_database("ledger")
    consumer = world.consumer(pace=_QUICK)
    producer = world.producer(800, every_s=0.01)
    world.reached(20)
    for server in (own_valkey, own_postgres):
        server.pause()
        began = time.monotonic()
        eventually(lambda began=began: time.monotonic() - began > 4.0)
        before = world_applied(world) if server is own_valkey else 0
        server.resume()
        healed_at = time.monotonic()
        before = before or world.applied()
        eventually(lambda before=before: world.applied() > before, what=f"it goes on after {server.name} woke")
        assert time.monotonic() - healed_at < 10

    world.written(800)
    world.converges()
    assert consumer.alive
    assert producer.alive


def world_applied(world: World) -> int:
    return world.applied()
