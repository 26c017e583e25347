"""`when="durable"`: a domain event's listener runs after the commit, until it works, whoever dies meanwhile.

The row that waits for a listener is the queue. It is written in the publisher's transaction and deleted in the
listener's, so at every moment, seen in one look, each event is either in the ledger or waiting.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cauce.dev.servers import ScratchDatabases, ValkeyServer
from testsupport.databases import query
from testsupport.durable.harness import World
from testsupport.long_form import PROVE

_HASTY = (0.6, 0.2, 60.0, 30.0)
_LIVES = 20 if PROVE else 5


@pytest.fixture
def shop_on_postgres(make_world: Callable[..., World], valkey: ValkeyServer, postgres: ScratchDatabases) -> World:
    """One database, in which the shop and its listeners keep everything."""
    url = postgres.database()
    return make_world(broker=valkey.url, shop=url, ledger=url)


@pytest.fixture
def shop_on_sqlite(make_world: Callable[..., World], valkey: ValkeyServer, tmp_path: Path) -> World:
    url = f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    return make_world(broker=valkey.url, shop=url, ledger=url)


@pytest.fixture(params=["shop_on_postgres", "shop_on_sqlite"])
def shop(request: pytest.FixtureRequest) -> World:
    return request.getfixturevalue(request.param)


def _neither_lost_nor_twice(shop: World) -> None:
    """Without a listener that failed for good: what is committed is applied or waits, and never both."""
    ((committed, applied, waiting),) = query(
        shop.shop,
        "SELECT (SELECT count(*) FROM biz), (SELECT count(*) FROM ledger), (SELECT count(*) FROM cauce_waiting)",
    )
    assert committed == applied + waiting


def test_killed_before_the_commit_of_a_listener_the_event_waits_and_is_applied_later(shop: World) -> None:
    _killed_again_and_again(shop, "before_commit")


def test_killed_during_a_listeners_commit_the_event_is_applied_or_waits_never_both(
    shop_on_postgres: World,
) -> None:
    _killed_again_and_again(shop_on_postgres, "commit_sent")


def _killed_again_and_again(shop: World, point: str) -> None:
    # Enough that every life, the last one too, still finds the commit at which it is to die.
    plan = [(f"k{no % 5}" if no % 2 else None, "") for no in range(12 * _LIVES)]
    for life in range(_LIVES):
        process = shop.exclusive(plan, fault=f"{point}:{1 + (life * 5) % 7}", pace=_HASTY)
        assert process.ended() == -signal.SIGKILL, process.said()
        _neither_lost_nor_twice(shop)

    shop.exclusive(plan, pace=_HASTY)

    shop.written(len(plan))
    final = shop.converges()
    assert shop.struck(point) == _LIVES
    assert len(final.ledger) == len(plan)


def test_killed_between_the_commits_of_two_events_each_is_applied_once_in_order(
    shop: World,
) -> None:
    plan = [("k", ""), ("k", "crash:2"), ("k", "")]
    for _ in range(2):
        assert shop.exclusive(plan, pace=_HASTY).ended() == 3
        _neither_lost_nor_twice(shop)
        assert shop.applied() == 1

    shop.exclusive(plan, pace=_HASTY)

    shop.written(len(plan))
    final = shop.converges()
    assert [row.no for row in final.ledger] == [1, 2, 3]


def test_killed_during_a_retry_the_attempts_continue_where_they_were(shop: World) -> None:
    plan = [("k", "fail:2 crash:1"), ("k", ""), ("other", "")]
    assert shop.exclusive(plan, pace=_HASTY).ended() == 3
    _neither_lost_nor_twice(shop)

    shop.exclusive(plan, pace=_HASTY)

    shop.written(len(plan))
    final = shop.converges()
    assert [row.no for row in final.ledger if row.key == "k"] == [1, 2]
    assert [fact["attempt"] for fact in shop.facts("called") if fact["no"] == 1] == [1, 2, 3, 3]


def test_of_two_listeners_of_an_event_only_the_failed_one_runs_again_even_after_a_kill(shop: World) -> None:
    shop.consumers.append("other")
    plan = [("a", "other@fail:2 other@crash:1"), ("b", "")]
    assert shop.exclusive(plan, listeners=("ledger", "other"), pace=_HASTY).ended() == 3

    shop.exclusive(plan, listeners=("ledger", "other"), pace=_HASTY)

    shop.written(len(plan))
    shop.converges()
    calls = [(fact["consumer"], fact["attempt"]) for fact in shop.facts("called") if fact["no"] == 1]
    assert sorted(calls) == [("ledger", 1), ("other", 1), ("other", 2), ("other", 3), ("other", 3)]


def test_a_listener_that_always_fails_leaves_a_dead_letter_and_its_key_parked_behind_it(shop: World) -> None:
    plan = [("a", "raise"), ("a", ""), ("b", ""), (None, "reject")]
    shop.exclusive(plan, retry=(3, 0.05, 0.1))
    shop.written(len(plan))

    final = shop.converges(planted={1, 4}, parked={2})

    assert [row.no for row in final.ledger] == [3]


def test_events_of_a_rolled_back_savepoint_reach_no_listener(shop: World) -> None:
    plan = [(f"k{no % 3}" if no % 2 else None, "") for no in range(40)]
    shop.exclusive(plan, abandoned=1.0, rolled_back=0.3, per_transaction=2)
    shop.written(len(plan))

    final = shop.converges()

    assert len(final.ledger) == len(plan)
