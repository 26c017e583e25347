"""Fixtures of the durability tests: `world` is a fresh system on a broker and databases of its own."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cauce.dev.servers import ScratchDatabases, ValkeyServer
from testsupport.durable.harness import ForkServer, World


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    one = ForkServer(tmp_path_factory.mktemp("fork-server"))
    yield one
    one.close()


_worlds = pytest.StashKey[list[World]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what its processes said last."""
    report = yield
    if report.failed:
        report.sections += [("processes", world.last_words()) for world in item.stash.get(_worlds, [])]
    return report


@pytest.fixture
def make_world(
    fork_server: ForkServer, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., World]]:
    """`make_world(broker=…, shop=…, ledger=…)`, see World; its processes end with the test."""
    worlds: list[World] = []
    request.node.stash[_worlds] = worlds

    def make(**where: Any) -> World:
        folder = tmp_path / f"world-{len(worlds)}"
        folder.mkdir()
        worlds.append(World(fork_server, folder, **where))
        return worlds[-1]

    yield make
    for one in worlds:
        one.close()


@pytest.fixture
def world(make_world: Callable[..., World], valkey: ValkeyServer, postgres: ScratchDatabases) -> World:
    """On the session's Valkey, with two PostgreSQL databases."""
    return make_world(broker=valkey.url, shop=postgres.database(), ledger=postgres.database())


@pytest.fixture
def world_of_its_own(make_world: Callable[..., World], own_valkey: ValkeyServer, postgres: ScratchDatabases) -> World:
    """With a Valkey to kill."""
    return make_world(broker=own_valkey.url, shop=postgres.database(), ledger=postgres.database())


@pytest.fixture
def world_on_sqlite(make_world: Callable[..., World], valkey: ValkeyServer, tmp_path: Path) -> World:
    return make_world(
        broker=valkey.url,
        shop=f"sqlite+aiosqlite:///{tmp_path}/shop.db",
        ledger=f"sqlite+aiosqlite:///{tmp_path}/ledger.db",
    )
