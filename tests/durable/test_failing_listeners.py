"""H39–H41: what fails, dies or cannot be read harms nobody else, keeps its place, and is never lost."""

import json
from collections import Counter

import pytest
from cauce.dev.servers import PostgresServer
from testsupport.databases import query
from testsupport.durable import scenarios
from testsupport.durable.checker import problems
from testsupport.durable.harness import World
from testsupport.waiting import eventually


def test_h39_three_bad_events_among_many_are_dead_letters_and_all_others_are_applied(world: World) -> None:
    lives = scenarios.deadly_events(world)

    eventually(
        lambda: Counter(reason for _, _, reason in world.dead()) == {"exhausted": 1, "crash loop": 1, "undecodable": 1}
    )
    eventually(lambda: world.in_groups() == (0, 0))
    assert problems(world.final(planted={100, 150})) == [
        "ledger: 1 innocents are dead letters: [0] {'undecodable': 1}"
    ], "nothing but what is no event of anybody's"
    rows = query(world.ledger, "SELECT reason, message, error FROM cauce_dead_letter")
    found = {reason: (bytes(message), error) for reason, message, error in rows}
    assert found["undecodable"][0] == b'{"specversion": "1.0", "id": ', "the bytes are kept"
    assert "no 100 never works" in found["exhausted"][1]
    assert json.loads(found["crash loop"][0])["data"]["no"] == 150
    assert len(lives) == 5, "four deaths: the first beside others, three alone"
    assert len(world.facts("died")) == 4


def test_a_retry_that_kills_the_process_ends_as_a_dead_letter_too(world: World) -> None:
    world.producer([("a", ""), ("b", "fail:1 exit"), ("b", ""), ("c", "")])
    world.written(4)

    scenarios.until_it_is_dead(world, pace=(1.0, 0.25, 60.0, 30.0))

    final = world.converges(planted={2}, parked={3})
    assert sorted(row.no for row in final.ledger) == [1, 4]


def test_an_event_that_merely_ran_beside_a_deadly_one_is_applied_once(world: World) -> None:
    # Two deaths by the same event, then it works: nobody is condemned, and nobody is applied twice.
    plan = [(f"k{no}", "") for no in range(30)] + [("x", "crash:2")]
    world.producer(plan)
    world.written(len(plan))
    eventually(lambda: not world.unsent())
    for _ in range(2):
        assert world.consumer(pace=(1.0, 0.25, 60.0, 30.0)).ended() == 3

    world.consumer(pace=(1.0, 0.25, 60.0, 30.0))

    world.converges()
    assert not query(world.ledger, "SELECT * FROM cauce_started")


@pytest.mark.parametrize("act", ["cancel", "leave"])
def test_a_listener_that_cancels_itself_or_exits_has_failed_and_the_service_continues(world: World, act: str) -> None:
    # As many as there are workers, twice: each of them would have ended one.
    plan = [(f"k{no}", act if no < 16 else "") for no in range(60)]
    consumer = world.consumer(retry=(2, 0.05, 0.1))
    world.producer(plan)
    world.written(len(plan))

    world.converges(planted=range(1, 17))

    assert consumer.alive


def test_h40_a_database_that_is_away_condemns_no_event_and_is_not_besieged(
    own_postgres: PostgresServer, world: World
) -> None:
    world.ledger = own_postgres.create_database("ledger")
    consumer = world.consumer(retry=(2, 0.05, 0.1))
    world.producer(200, every_s=0.01)
    world.reached(20)

    logged = len(consumer.lines())
    own_postgres.stop()
    eventually(lambda: len(world.committed()) == 200, what="the producer goes on")
    away = [line for line in consumer.lines()[logged:] if "does not serve us" in line]
    own_postgres.start()

    world.converges()
    assert away, "it was in its way"
    seconds = _seconds(away)
    assert len(away) <= 30 + 15 * seconds, f"{len(away)} tries in {seconds} s"


def _seconds(lines: list[str]) -> float:
    times = [int(line.split()[0]) for line in lines]
    return (max(times) - min(times)) / 1000 if times else 0.0


def test_h40_a_connection_that_the_database_ends_in_the_middle_costs_no_attempt(world: World) -> None:
    scenarios.connections_ended_by_the_database(world)


def test_h41_a_failing_event_holds_back_its_key_only_and_its_successors_stay_in_order(world: World) -> None:
    scenarios.a_failing_head(world)


def test_an_event_without_a_key_that_fails_holds_nobody_back(world: World) -> None:
    cause = scenarios.a_cause(world)
    world.consumer(retry=(10_000, 0.2, 0.4))
    world.producer([(None, "fail:5 caused"), *[(None, "")] * 40])
    world.reached(40)
    cause.unlink()

    world.converges()

    assert max(fact["attempt"] for fact in world.facts("called") if fact["no"] == 1) >= 6
    assert query(world.ledger, "SELECT no FROM ledger ORDER BY position DESC LIMIT 1") == [(1,)]


def test_a_dead_letter_parks_its_key_until_discarded_then_the_rest_follows_in_order(
    world: World,
) -> None:
    plan = [("a", ""), ("a", "reject"), ("a", ""), ("a", ""), ("b", "")]
    world.consumer()
    world.producer(plan)
    world.written(5)
    final = world.converges(planted={2}, parked={3, 4})
    assert [row.no for row in final.ledger if row.key == "a"] == [1]
