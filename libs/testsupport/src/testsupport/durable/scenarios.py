"""What happens to a world in the guarantees' tests. The exam plays the same with a bug planted, and must see it fail.

Every scenario ends in the checker, and says if its own fault did not happen.
"""

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import redis
from cauce.dev.servers import ValkeyServer

from testsupport.databases import query
from testsupport.durable.harness import Running, World
from testsupport.waiting import eventually

__all__ = [
    "HASTY",
    "QUICK",
    "a_cause",
    "a_failing_head",
    "an_emptied_broker",
    "asleep_longer_than_its_lease",
    "comes_back_empty",
    "connections_ended_by_the_database",
    "consumers_killed_around_their_commit",
    "crosswise",
    "deadly_events",
    "deleted_streams",
    "frozen_between_reading_and_sending",
    "many_writers",
    "scaled_up_and_down",
    "terminated_at_random",
    "trimmed_beside_a_paused_consumer",
    "until_it_is_dead",
    "woken_with_lanes_of_others",
    "written_first_committed_last",
]

QUICK = (1.5, 0.4, 60.0, 30.0)
HASTY = (0.6, 0.2, 60.0, 30.0)


# The producer and the relay


def written_first_committed_last(world: World) -> None:
    """H02: the event with the lower position becomes visible after the other one was sent."""
    plan = [("k1", ""), ("k2", "")]
    world.consumer()
    first = world.producer(plan[:1], fault="before_commit:1:stop")
    eventually(lambda: world.struck("before_commit"), what="the first transaction stands before its COMMIT")
    # The second process cannot write number 1, which waits for the first one's row; its other writer does number 2.
    world.producer(plan, together=2)
    world.reached(1)
    assert set(world.committed().values()) == {2}

    first.resume()

    world.written(2)
    final = world.converges()
    assert [row.no for row in final.ledger] == [2, 1]


def many_writers(world: World, *, events: int) -> None:
    """H02, H03, H12: transactions of any length over hot keys; some roll back, and so do some of their savepoints."""
    plan = [(f"k{no % 20}", "") for no in range(events)]
    world.consumer()

    world.producer(plan, together=8, hold_s=0.03, per_transaction=3, rolled_back=0.2, abandoned=0.2)
    world.written(len(plan))

    world.converges()
    assert len(world.facts("rolled back")) > 2
    assert len(world.facts("abandoned")) > 2
    heads = dict(query(world.shop, "SELECT key, seq FROM cauce_key_head"))
    assert heads == {f"k{no}": events / 20 for no in range(20)}, "without holes, whatever was rolled back"


def crosswise(world: World, *, transactions: int) -> None:
    """H03: every transaction publishes under the same five keys, every second one in the opposite order."""
    orders = (range(5), range(4, -1, -1))
    plan = [(f"k{key}", "") for no in range(transactions) for key in orders[no % 2]]
    world.consumer()

    producer = world.producer(plan, together=6, per_transaction=5)
    eventually(lambda: len(world.committed()) == len(plan) or not producer.alive)

    assert producer.alive, [line for line in producer.lines() if "deadlock" in line.lower()]
    world.converges()


def frozen_between_reading_and_sending(world: World) -> None:
    """H04: two of three relays freeze with rows in their hands, are replaced, and wake as zombies."""
    plan = [(f"k{no % 10}", "") for no in range(500)]
    world.consumer()
    frozen = [world.producer(pace=HASTY, fault=f"before_append:{times}:stop") for times in (1, 2)]
    writer = world.producer(plan, pace=HASTY, every_s=0.005)
    eventually(lambda: world.struck("before_append") == 2, what="both are frozen")
    eventually(lambda: len(world.lanes_of(world.shop, writer)) == 16, what="they are replaced")
    world.reached(100)

    for zombie in frozen:
        zombie.resume()

    world.written(len(plan))
    world.converges()


# The consumer


def consumers_killed_around_their_commit(world: World, point: str, *, lives: int) -> None:
    """H36: killed `lives` times at the point, one life after the other, then left alone."""
    plan = [(f"k{no % 5}" if no % 2 else None, "") for no in range(12 * lives)]
    for life in range(lives):
        there = 12 * (life + 1)
        producer = world.producer(plan[:there])
        world.written(there)
        eventually(lambda: not world.unsent())
        producer.stop()
        # Never the same event often enough to be suspected of it: see crash loops.
        consumer = world.consumer(fault=f"{point}:{1 + (life * 5) % 9}", pace=HASTY)
        assert consumer.ended() == -signal.SIGKILL, consumer.said()

    world.consumer(pace=HASTY)

    world.converges()
    assert world.struck(point) == lives


def woken_with_lanes_of_others(world: World, *, reads: int) -> None:
    """H25, H26: frozen just before a read, replaced, and woken while its lanes are busy in the hands of another."""
    zombie = world.consumer(pace=QUICK, fault=f"before_read:{reads}:stop")
    eventually(lambda: world.struck("before_read"), what="it is frozen just before it sends a read")
    successor = world.consumer(pace=QUICK)
    eventually(lambda: len(world.lanes_of(world.ledger, successor)) == 16, what="all lanes are taken over")
    world.producer([(f"k{no % 4}", "") for no in range(400)], every_s=0.003)
    world.reached(50)

    zombie.resume()

    world.written(400)
    world.converges()


def asleep_longer_than_its_lease(world: World) -> None:
    """H25, with nobody there to take over: a process is frozen with work in its hands, and finds its lease has run out
    while more of the same keys arrives."""
    plan = [(f"k{no % 6}", "sleep:0.03") for no in range(700)]
    consumer = world.consumer(pace=HASTY)
    world.producer(plan, every_s=0.004)
    for turn in range(1, 5):
        world.reached(turn * 100)
        consumer.pause()
        time.sleep(HASTY[0] + 0.4)  # the lease has to run out, and nothing can be seen of that
        consumer.resume()

    final = world.converges()
    assert len(final.ledger) == len(plan)


def scaled_up_and_down(world: World, *, events: int) -> None:
    """H23: from five consumers to one and back, three times, under load."""
    world.producer([(f"k{no % 11}", "") for no in range(events)], every_s=0.005)
    workers = [world.consumer(pace=QUICK) for _ in range(5)]
    for third in range(3):
        world.reached(third * events // 4 + 10)
        eventually(lambda five=tuple(workers): all(_is_at_work(world, one) for one in five), what="they share")
        for worker in workers[1:]:
            worker.terminate()
        for worker in workers[1:]:
            assert worker.ended() == 0
        del workers[1:]
        world.reached(third * events // 4 + 40)
        workers += [world.consumer(pace=QUICK) for _ in range(4)]

    world.written(events)
    world.converges()


def _is_at_work(world: World, worker: Running) -> bool:
    return bool(world.lanes_of(world.ledger, worker)) or any(f["pid"] == worker.pid for f in world.facts("called"))


def terminated_at_random(world: World, *, times: int, grace_s: float = 10.0) -> None:
    """H42: SIGTERM to consumers and producers in turn, at any moment under load."""
    chance = random.Random(times)
    plan = [(f"k{no % 9}" if no % 2 else None, "sleep:0.02" if no % 3 else "") for no in range(100 * times)]
    starts = [
        lambda: world.consumer(pace=QUICK, grace_s=grace_s),
        lambda: world.producer(plan, pace=QUICK, together=2, every_s=0.03),
    ]
    running = [start() for start in starts]
    for turn in range(times):
        which = turn % 3 % 2  # two consumers for one producer
        seen, more = world.applied(), chance.randrange(1, 15)
        eventually(lambda target=seen + more: world.applied() >= target or len(world.committed()) == len(plan))
        assert running[which].alive
        running[which].terminate()
        successor = starts[which]()
        assert running[which].ended(within_s=grace_s + 1) == 0, "drained within its grace"
        running[which] = successor
    assert running[1].stop() == 0
    world.planned = len(world.committed())  # the rest is not written any more

    world.producer(pace=QUICK)
    final = world.converges()
    assert len(final.ledger) > times


def a_cause(world: World) -> Path:
    """For `caused`: it lasts until it is unlinked."""
    cause = Path(f"{world.history}.cause")
    cause.touch()
    return cause


def a_failing_head(world: World) -> None:
    """H41: the first event of a key fails at least five times; twenty follow it, and fifty other keys are busy."""
    plan = [("a", "fail:5 caused")] + [("a", "")] * 20 + [(f"k{no % 50}", "") for no in range(200)]
    cause = a_cause(world)
    world.consumer(retry=(10_000, 0.2, 0.4))
    world.producer(plan, together=4)

    eventually(lambda: _applied_beside(world, "a") == 200, what="the other keys are done")
    ahead = query(world.ledger, "SELECT count(*) FROM ledger WHERE key = 'a'")[0][0]
    cause.unlink()

    world.converges()
    # Four publish at once: some of the key may have been committed before the one that fails, and have lower numbers.
    earlier = "SELECT count(*) FROM ledger WHERE key = 'a' AND key_seq < (SELECT key_seq FROM ledger WHERE no = 1)"
    assert ahead == query(world.ledger, earlier)[0][0], "nothing of the key came before the one that failed"
    assert max(fact["attempt"] for fact in world.facts("called") if fact["no"] == 1) >= 6


def _applied_beside(world: World, key: str) -> int:
    if not world.applied():
        return 0
    return int(query(world.ledger, f"SELECT count(*) FROM ledger WHERE key <> '{key}'")[0][0])


def connections_ended_by_the_database(world: World) -> None:
    """H40: again and again the database ends every connection of a consumer whose events may fail only once."""
    world.consumer(retry=(1, 0.05, 0.1))
    plan = [(None, "sleep:0.05") for _ in range(300)]
    world.producer(plan)
    ended = 0
    while (seen := world.applied() + len(world.dead())) < 250:
        eventually(lambda seen=seen: world.applied() + len(world.dead()) > seen + 15)
        rows = query(
            world.ledger,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND query LIKE 'INSERT INTO ledger%' AND state = 'idle in transaction'",
        )
        ended += int(rows[0][0])

    world.converges()
    assert ended > 5, "they were in the middle of their transactions"


def deadly_events(world: World) -> list[Running]:
    """H39: one event raises, one kills the process, one cannot be read; the process is started again as it dies."""
    plan = [(f"k{no % 40}", "") for no in range(300)]
    plan[99], plan[149] = ("raising", "raise"), ("deadly", "exit")
    world.producer(plan)
    world.written(len(plan))
    eventually(lambda: not world.unsent())
    with redis.Redis.from_url(world.broker) as broker:
        broker.xadd(world.streams()[0], {"e": b'{"specversion": "1.0", "id": '})

    lives = until_it_is_dead(world, retry=(3, 0.05, 0.1), pace=HASTY)

    eventually(lambda: world.applied() == 298, what="everything else is applied")
    return lives


def until_it_is_dead(world: World, **settings: Any) -> list[Running]:
    """A supervisor: whenever the process dies, the next one is started, until the poison is a dead letter."""
    lives = [world.consumer(**settings)]

    def found() -> bool:
        if not lives[-1].alive:
            assert len(lives) < 6, "the poison kills one process after the other"
            lives.append(world.consumer(**settings))
        return any(reason == "crash loop" for _, _, reason in world.dead())

    eventually(found, what="the poison is a dead letter")
    return lives


# The broker


def comes_back_empty(server: ValkeyServer) -> None:
    """Killed, and everything it had is gone."""
    server.kill()
    shutil.rmtree(server.folder / "data")
    server.start()


def an_emptied_broker(world: World, server: ValkeyServer) -> None:
    """H15: events wait in the broker for an absent consumer when it loses everything."""
    producer = world.producer(150)
    world.written(150)
    eventually(lambda: not world.unsent(), what="all is in the broker")
    assert world.copies() == 150

    comes_back_empty(server)
    world.consumer(pace=QUICK)

    world.converges()
    assert "are sent again" in producer.said()


def trimmed_beside_a_paused_consumer(world: World) -> None:
    """H16: the broker keeps next to nothing, one group is slow, and another one never reads at all."""
    trimming = (1.5, 0.4, 60.0, 0.2)
    world.consumer(pace=QUICK).stop()
    with redis.Redis.from_url(world.broker) as broker:
        broker.hset("cauce:{shop}:groups", "never", "0-0")
    consumer = world.consumer(pace=QUICK)
    world.producer(600, every_s=0.001, pace=trimming, keep={"broker_s": 0.1})
    world.reached(100)
    consumer.pause()
    world.written(600)
    eventually(lambda: not world.unsent())
    held = world.copies()
    consumer.resume()

    world.converges()
    assert held == world.copies() == 600, "a registered group was there to be waited for"


def deleted_streams(world: World, *, times: int) -> None:
    """H19: every stream, and every group with it, is deleted while events flow."""
    world.consumer(pace=QUICK)
    events = 120 * times
    world.producer(events, every_s=0.003)
    for turn in range(1, times + 1):
        world.reached(90 * turn)
        with redis.Redis.from_url(world.broker) as broker:
            assert broker.delete(*world.streams()) > 5

    world.written(events)
    world.converges()
