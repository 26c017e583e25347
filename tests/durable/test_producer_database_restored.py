"""The producer's database was wiped, or restored from an older copy: it counts its keys' numbers again.

Its consumers remember more than it does. Told of it by another incarnation they accept what comes; not told, they set
it aside, loudly. Nobody drops anything. One that is made anew is not started before somebody says that it replaces the
other.
"""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cauce.dev.ports import choose_port
from cauce.dev.servers import ScratchDatabases
from sqlalchemy import make_url
from testsupport.databases import leave, query
from testsupport.durable.harness import Running, World
from testsupport.waiting import eventually

_QUICK = (1.5, 0.4, 60.0, 30.0)
_BEFORE = [("a", ""), ("b", "")] * 4
_AFTER = [("a", ""), ("b", ""), ("new", "")] * 3

Copy = Callable[[World], str]


def _copied_on_postgres(world: World, postgres: ScratchDatabases) -> str:
    name = str(make_url(world.shop).database)
    leave()
    with postgres.server._connect() as connection:
        connection.execute(f"CREATE DATABASE {name}_earlier TEMPLATE {name} OWNER scratch".encode())
    postgres._names.append(f"{name}_earlier")
    return make_url(world.shop).set(database=f"{name}_earlier").render_as_string(hide_password=False)


def _copied_on_sqlite(world: World) -> str:
    file = Path(str(make_url(world.shop).database))
    for one in file.parent.glob(f"{file.name}*"):
        shutil.copy(one, one.with_name(f"earlier-{one.name}"))
    return f"sqlite+aiosqlite:///{file.with_name(f'earlier-{file.name}')}"


@pytest.fixture(params=["postgresql", "sqlite"])
def world_and_copy(request: pytest.FixtureRequest) -> tuple[World, Copy]:
    """A system, and a way to copy the shop's database while the shop is stopped; the answer is the copy's URL."""
    if request.param == "sqlite":
        return request.getfixturevalue("world_on_sqlite"), _copied_on_sqlite
    postgres: ScratchDatabases = request.getfixturevalue("postgres")
    return request.getfixturevalue("world"), lambda world: _copied_on_postgres(world, postgres)


def _published(world: World, plan: list[tuple[str, str]]) -> Running:
    """By a shop that runs until all of it is committed and sent, and is stopped then."""
    producer = world.producer(plan, pace=_QUICK)
    world.written(len(plan))
    eventually(lambda: not world.unsent(), what="all is sent")
    assert producer.stop() == 0
    return producer


def _restored(world_and_copy: tuple[World, Copy]) -> World:
    """Eight events, a copy, nine more, everything applied; then the shop goes on with the copy."""
    world, copy = world_and_copy
    _published(world, _BEFORE)
    earlier = copy(world)
    _published(world, [*_BEFORE, *_AFTER])
    world.reached(len(_BEFORE) + len(_AFTER))
    world.shop = earlier
    assert len(world.committed()) == len(_BEFORE)
    return world


def _cauce(*words: str, cwd: Path) -> str:
    program = str(Path(sys.executable).with_name("cauce"))
    done = subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _applied_numbers(world: World) -> Counter[int]:
    return Counter(no for (no,) in query(world.ledger, "SELECT no FROM ledger"))


def _counters(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/counters", timeout=10) as answer:
        return json.load(answer)


def test_a_wiped_producer_that_restarts_its_numbers_is_handled_logged_and_counted(
    world: World, postgres: ScratchDatabases
) -> None:
    port = choose_port()
    consumer = world.consumer(pace=_QUICK, health_port=port)
    _published(world, _BEFORE)
    world.reached(len(_BEFORE))

    world.shop = postgres.database()  # nothing is left of what it knew
    refused = world.producer(_BEFORE, pace=_QUICK)
    assert refused.ended() != 0
    assert "shop is registered on this broker with another database than this one" in refused.said()
    _cauce("db", "restored", "--database-url", world.shop, "--redis-url", world.broker, cwd=world.folder)
    _published(world, _BEFORE)

    world.reached(2 * len(_BEFORE))
    eventually(lambda: world.in_groups() == (0, 0), what="all is acknowledged")
    assert _applied_numbers(world) == Counter(dict.fromkeys(range(1, len(_BEFORE) + 1), 2))
    assert not world.dead()
    eventually(lambda: _counters(port).get("began_anew") == 2, what="once for each key")
    assert consumer.said().count("the database of shop was made anew or restored") == 1


def test_a_declared_restore_of_a_producer_loses_nothing_although_numbers_are_reused(
    world_and_copy: tuple[World, Copy],
) -> None:
    world_and_copy[0].consumer(pace=_QUICK)
    world = _restored(world_and_copy)

    where = ("--database-url", world.shop, "--redis-url", world.broker)
    said = _cauce("db", "restored", *where, "--because", "a backup", cwd=world.folder)
    _published(world, [*_BEFORE, *_AFTER])

    assert "new incarnation" in said
    world.reached(len(_BEFORE) + 2 * len(_AFTER))
    eventually(lambda: world.in_groups() == (0, 0), what="all is acknowledged")
    assert not world.dead()
    applied = {event_id for (event_id,) in query(world.ledger, "SELECT event_id FROM ledger")}
    assert applied >= set(world.committed())
    # What was lost with the database was heard before, and is written anew now: those numbers were applied twice.
    again = range(len(_BEFORE) + 1, len(_BEFORE) + len(_AFTER) + 1)
    assert _applied_numbers(world) == Counter(
        {**dict.fromkeys(range(1, len(_BEFORE) + 1), 1), **dict.fromkeys(again, 2)}
    )


def test_an_undeclared_restore_of_a_producer_ends_in_dead_letters_that_can_be_replayed(
    world_and_copy: tuple[World, Copy],
) -> None:
    consumer = world_and_copy[0].consumer(pace=_QUICK)
    world = _restored(world_and_copy)

    _published(world, [*_BEFORE, *_AFTER])

    eventually(lambda: world.in_groups() == (0, 0) and len(world.dead()) == len(_AFTER), what="all are dead letters")
    numbers = world.committed()
    assert {(numbers[event_id], reason) for _, event_id, reason in world.dead()} == {
        (no, "late") for no in range(len(_BEFORE) + 1, len(_BEFORE) + len(_AFTER) + 1)
    }
    assert consumer.said().count("dead: shop.counted") == len(_AFTER)

    _cauce("dead", "replay", "--database-url", world.ledger, "--all", cwd=world.folder)

    world.reached(len(_BEFORE) + 2 * len(_AFTER))
    assert not world.dead()
