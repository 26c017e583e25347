"""H01–H06, H10, H24, H27: what was committed reaches the broker, and nothing else does, whoever dies meanwhile."""

import signal
from statistics import median

import httpx
import psutil
import pytest
import redis
from cauce.dev.ports import choose_port
from cauce.dev.servers import ValkeyServer
from testsupport.databases import query
from testsupport.durable import scenarios
from testsupport.durable.checker import problems
from testsupport.durable.harness import Running, World
from testsupport.long_form import PROVE
from testsupport.waiting import eventually

_LIVES = 20 if PROVE else 4
_SIX_POINTS = ("before_insert", "after_insert", "before_commit", "commit_sent", "after_commit", "before_reply")


@pytest.mark.parametrize("point", _SIX_POINTS)
def test_h01_state_and_event_stand_or_fall_together_wherever_the_producer_is_killed(world: World, point: str) -> None:
    port = choose_port()
    plan = [(f"k{no % 3}", "") for no in range(2 * _LIVES)]
    world.consumer()
    answered: list[int] = []
    no = 0
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as door:
        for life in range(_LIVES):
            # In every second life one request is served before the fault.
            process = world.producer(plan, port=port, fault=f"{point}:{1 + life % 2}")
            _door_opens(door, process)
            for _ in range(1 + life % 2):
                no += 1
                if _ask(door, no):
                    answered.append(no)
            assert process.ended() == -signal.SIGKILL
        world.producer(plan)  # what no life committed is written now, and everything is relayed
        world.written(len(plan))

    final = world.converges()

    assert world.struck(point) == _LIVES
    assert set(answered) <= set(final.committed.values())


def _door_opens(door: httpx.Client, process: Running) -> None:
    def open_() -> bool:
        assert process.alive, process.said()
        try:
            return door.get("/").status_code == 200
        except httpx.TransportError:
            return False

    eventually(open_, what="the door opens")


def _ask(door: httpx.Client, no: int) -> bool:
    try:
        return door.post(f"/{no}").status_code == 201
    except httpx.TransportError:
        return False


def test_h02_an_event_that_was_written_first_and_committed_last_is_not_skipped(world: World) -> None:
    scenarios.written_first_committed_last(world)


def test_h02_h03_many_writers_with_transactions_of_any_length_lose_nothing_and_keep_order(
    world: World,
) -> None:
    scenarios.many_writers(world, events=4800 if PROVE else 600)


def test_h03_transactions_over_several_keys_never_wait_for_each_other_crosswise(world: World) -> None:
    scenarios.crosswise(world, transactions=2000 if PROVE else 100)


def test_h04_relays_frozen_between_reading_and_sending_keep_the_order_of_every_key(
    world: World,
) -> None:
    scenarios.frozen_between_reading_and_sending(world)


def test_h04_three_relays_that_are_frozen_at_random_keep_the_order_of_a_key(world: World) -> None:
    world.consumer()
    plan = [("k", "")] * 600
    # One writes; three relay. Whoever is frozen loses its lanes and comes back as a zombie.
    writer = world.producer(plan, pace=scenarios.HASTY, every_s=0.005)
    world.written(1)
    relays = [writer, *(world.producer(pace=scenarios.HASTY) for _ in range(2))]

    for turn in range(20 if PROVE else 4):
        owner = _relay_of_the_key(world, relays)
        if owner is None or owner is writer:
            owner = relays[1 + turn % 2]
        owner.pause()
        eventually(lambda frozen=owner: not world.lanes_of(world.shop, frozen), what="it is replaced")
        owner.resume()

    world.written(len(plan))
    world.converges()


def _relay_of_the_key(world: World, relays: list[Running]) -> Running | None:
    lanes = query(world.shop, "SELECT DISTINCT key_hash & 15 FROM cauce_outbox")
    owner = world.owners(world.shop).get(int(lanes[0][0])) if lanes else None
    return next((one for one in relays if owner is not None and f":{one.pid}:" in owner), None)


def test_h05_killed_between_confirmation_and_mark_the_event_is_sent_twice_applied_once(
    world: World,
) -> None:
    world.consumer()
    for _ in range(5):
        process = world.producer(60, every_s=0.005, fault="after_append:3")
        assert process.ended() == -signal.SIGKILL
    world.producer(60)
    world.written(60)

    world.converges()

    assert world.struck("after_append") == 5
    assert world.copies() > 60, "the fault happened: the broker holds copies"


def test_h06_an_event_that_is_too_large_is_refused_at_publish_and_holds_nobody_up(world: World) -> None:
    world.consumer()
    process = world.producer([("k1", "")], filler=300_000)

    assert process.ended() != 0
    assert "at most 262144 bytes" in process.said()
    world.producer(50)
    world.written(50)

    assert len(world.converges().ledger) == 50


def test_h06_a_row_the_broker_refuses_parks_its_key_at_the_producer_and_the_others_flow(world: World) -> None:
    first = world.producer(1)
    world.written(1)
    eventually(lambda: not world.unsent())
    first.stop()
    # Somebody wrote a row that the broker will never take.
    query(
        world.shop,
        "INSERT INTO cauce_outbox (event_id, topic, key_hash, key, key_seq, name, message, created_at) "
        "SELECT 'too-large', topic, key_hash, key, 99, name, convert_to(repeat('x', 300000), 'UTF8'), created_at "
        "FROM cauce_sent",
        write=True,
    )
    world.consumer()

    world.producer([("k0", ""), *[(f"k{no}", "") for no in range(1, 500)]])
    world.written(500)

    eventually(lambda: world.applied() == 500 and world.in_groups() == (0, 0), what="all others are applied")
    assert problems(world.final()) == ["1 rows of the outbox are not sent"]
    stuck = query(world.shop, "SELECT event_id, problem FROM cauce_set_aside")
    assert [row[0] for row in stuck] == ["too-large"]
    assert "the limit is 262144" in stuck[0][1]
    said = "".join(process.said() for process in world.processes)
    assert said.count("event too-large cannot be sent") == 1, "and it was not tried again and again"


def test_h10_an_unnotified_relay_finds_commits_by_polling_even_after_lost_connections(
    world: World,
) -> None:
    world.consumer()
    relay = world.producer(pace=scenarios.QUICK)
    eventually(lambda: len(world.lanes_of(world.shop, relay)) == 16)
    world.producer([(f"k{no}", "") for no in range(150)], pace=scenarios.QUICK, every_s=0.02)
    eventually(lambda: world.shares(world.shop) == [8, 8])
    for part in (40, 80, 120):
        world.written(part)
        assert _end_connections(world, relay) > 0

    world.written(150)
    world.converges()

    lanes = ", ".join(str(lane) for lane in world.lanes_of(world.shop, relay))
    waited = query(world.shop, f"SELECT sent_at - created_at FROM cauce_sent WHERE lane IN ({lanes})")
    assert len(waited) > 30
    assert median(float(row[0]) for row in waited) < 1.2 + 1.0, "the longest poll, and a second"


def _end_connections(world: World, process: Running) -> int:
    """The database ends all that this process has to it."""
    ports = {one.laddr.port for one in psutil.Process(process.pid).net_connections("tcp")}
    listed = ", ".join(map(str, ports))
    ended = query(
        world.shop,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        f"WHERE datname = current_database() AND client_port IN ({listed})",
    )
    return int(ended[0][0])


def test_h24_an_answer_that_comes_too_late_leads_to_copies_and_not_to_a_second_effect(
    world_of_its_own: World, own_valkey: ValkeyServer
) -> None:
    world = world_of_its_own
    world.consumer()
    writer = world.producer(400, every_s=0.005, fault="before_append:20:stop")
    eventually(lambda: world.struck("before_append"), what="the relay is about to send")
    own_valkey.pause()  # what is put on the wire now will be taken, and confirmed to nobody
    writer.resume()
    eventually(lambda: "no answer" in writer.said(), what="the relay gave the answer up")
    own_valkey.resume()
    world.written(400)

    world.converges()

    assert world.copies() > 400, "the fault happened: the broker holds copies"


def test_h27_a_broker_out_of_memory_takes_nothing_half_and_everything_later(
    world_of_its_own: World, own_valkey: ValkeyServer
) -> None:
    world = world_of_its_own
    world.consumer()
    with redis.Redis.from_url(own_valkey.url) as broker:
        broker.config_set("maxmemory", "3mb")
        world.producer(600, filler=10_000, every_s=0.002)
        world.written(600)
        eventually(lambda: world.unsent() > 50, what="the outbox grows")
        assert world.applied() < 600

        broker.config_set("maxmemory", "0")

    world.converges()
