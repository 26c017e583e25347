"""Whatever tree of savepoints a transaction is made of, the events that survive are those whose rows survive."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest
from cauce import DomainEvent, IntegrationEvent, Service, Transaction, on
from cauce.dev.servers import ScratchDatabases
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory import MemoryTransport
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text


class Wrote(DomainEvent, name="tree.wrote"):
    number: int


class Told(IntegrationEvent, name="tree.told", version=1, source="tree-ms"):
    number: int


class System:
    """A service that writes down what was heard after commits, and the rows that are there."""

    def __init__(self, store: SqlAlchemyStore) -> None:
        self.heard: list[int] = []
        self.sent: list[int] = []
        self.store = store
        self.service = Service("tree-ms", modules=[self], store=store, transport=MemoryTransport(), publishes=[Told])
        self.numbers = iter(range(10**9))

    @on(Wrote, when="after_commit")
    async def hear(self, event: Wrote) -> None:
        self.heard.append(event.number)

    @on(Told)
    async def receive(self, event: Told) -> None:
        self.sent.append(event.number)

    async def reset(self) -> None:
        async with self.store.engine.begin() as connection:
            await connection.execute(text("DELETE FROM rows_there"))
        self.heard.clear()
        self.sent.clear()

    async def step(self, tx: Transaction, *, write: bool) -> int:
        """Publish a number both ways, with a row of it or without."""
        number = next(self.numbers)
        if write:
            await tx.session.execute(text("INSERT INTO rows_there VALUES (:n)"), {"n": number})
        await tx.publish(Wrote(number=number))
        await tx.publish(Told(number=number))
        return number

    async def rows(self) -> list[int]:
        async with self.store.engine.connect() as connection:
            return list((await connection.execute(text("SELECT n FROM rows_there ORDER BY n"))).scalars())

    async def check(self, survivors: Sequence[int], written: Sequence[int]) -> None:
        await self.service.idle()
        assert self.heard == list(survivors)
        assert sorted(self.sent) == sorted(survivors)
        assert await self.rows() == sorted(written)
        pool: Any = self.store.engine.pool
        assert pool.checkedout() == 0


@asynccontextmanager
async def system_on(url: str) -> AsyncGenerator[System]:
    store = SqlAlchemyStore(create_engine(url))
    async with store.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE rows_there (n BIGINT)"))
    system = System(store)
    async with system.service:
        yield system


@pytest.fixture
async def on_sqlite(tmp_path: Path) -> AsyncGenerator[System]:
    async with system_on(f"sqlite+aiosqlite:///{tmp_path}/tree.sqlite") as system:
        yield system


@pytest.fixture
async def on_postgres(postgres: ScratchDatabases) -> AsyncGenerator[System]:
    async with system_on(postgres.database()) as system:
        yield system


# 1. Blocks inside blocks, as people write them.

Step: TypeAlias = "Literal['write', 'publish'] | Block"


@dataclass(frozen=True)
class Block:
    how: Literal["tx.savepoint", "session.begin_nested"]
    steps: tuple[Step, ...]
    ends: Literal["well", "badly"]


class _GoesWrongError(Exception):
    pass


leaves = st.sampled_from(["write", "publish"])
blocks = st.recursive(
    leaves,
    lambda steps: st.builds(
        Block,
        how=st.sampled_from(["tx.savepoint", "session.begin_nested"]),
        steps=st.lists(steps, max_size=4).map(tuple),
        ends=st.sampled_from(["well", "badly"]),
    ),
    max_leaves=12,
)
trees = st.tuples(st.lists(blocks, max_size=5), st.sampled_from(["well", "badly"]))


@dataclass
class Outcome:
    """What a part left behind if everything around it is kept."""

    survivors: list[int]
    written: list[int]


async def play(system: System, tx: Transaction, steps: Sequence[Step], outcome: Outcome) -> None:
    for step in steps:
        if isinstance(step, Block):
            inside = Outcome([], [])
            with suppress(_GoesWrongError):
                savepoint = tx.savepoint() if step.how == "tx.savepoint" else tx.session.begin_nested()
                async with savepoint:
                    await play(system, tx, step.steps, inside)
                    if step.ends == "badly":
                        raise _GoesWrongError
                outcome.survivors += inside.survivors
                outcome.written += inside.written
        else:
            number = await system.step(tx, write=step == "write")
            outcome.survivors.append(number)
            if step == "write":
                outcome.written.append(number)


async def play_tree(system: System, tree: tuple[list[Step], str]) -> None:
    steps, ends = tree
    await system.reset()
    outcome = Outcome([], [])
    with suppress(_GoesWrongError):
        async with system.service.transaction() as tx:
            await play(system, tx, steps, outcome)
            if ends == "badly":
                outcome = Outcome([], [])
                raise _GoesWrongError
    await system.check(outcome.survivors, outcome.written)


# 2. Every order of savepoints by hand, and of commits and rollbacks of the whole session.

Command: TypeAlias = tuple[str, int]
commands = st.lists(
    st.tuples(
        st.sampled_from(["write", "publish", "begin", "begin", "release", "undo", "undo", "commit", "rollback"]),
        st.integers(0, 3),
    ),
    min_size=5,
    max_size=20,
)


async def play_commands(system: System, sequence: Sequence[Command], ends: str) -> None:
    """The model is a stack of levels; `release` and `undo` may name an outer one, which takes the inner with it."""
    await system.reset()
    levels: list[Outcome] = [Outcome([], [])]
    done = Outcome([], [])
    savepoints: list[Any] = []

    def merge(into: Outcome, what: Sequence[Outcome]) -> None:
        for one in what:
            into.survivors += one.survivors
            into.written += one.written

    with suppress(_GoesWrongError):
        async with system.service.transaction() as tx:
            for command, which in sequence:
                if command in ("write", "publish"):
                    number = await system.step(tx, write=command == "write")
                    levels[-1].survivors.append(number)
                    if command == "write":
                        levels[-1].written.append(number)
                elif command == "begin":
                    savepoints.append(await tx.session.begin_nested())
                    levels.append(Outcome([], []))
                elif command in ("release", "undo") and savepoints:
                    at = which % len(savepoints)
                    inside = levels[at + 1 :]
                    if command == "release":
                        await savepoints[at].commit()
                        merge(levels[at], inside)
                    else:
                        await savepoints[at].rollback()
                    del levels[at + 1 :], savepoints[at:]
                elif command == "commit":
                    await tx.session.commit()
                    merge(done, levels)
                    levels, savepoints = [Outcome([], [])], []
                elif command == "rollback":
                    await tx.session.rollback()
                    levels, savepoints = [Outcome([], [])], []
            if ends == "badly":
                raise _GoesWrongError
            merge(done, levels)  # open savepoints are released by the commit
    await system.check(done.survivors, done.written)


ends = st.sampled_from(["well", "well", "badly"])
relaxed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # every example begins with a reset


@settings(max_examples=150, deadline=None, suppress_health_check=relaxed)
@given(tree=trees)
async def test_blocks_on_sqlite(on_sqlite: System, tree: tuple[list[Step], str]) -> None:
    await play_tree(on_sqlite, tree)


@settings(max_examples=150, deadline=None, suppress_health_check=relaxed)
@given(sequence=commands, ends=ends)
async def test_savepoints_by_hand_on_sqlite(on_sqlite: System, sequence: list[Command], ends: str) -> None:
    await play_commands(on_sqlite, sequence, ends)


@settings(max_examples=30, deadline=None, suppress_health_check=relaxed)
@given(tree=trees)
async def test_blocks_on_postgres(on_postgres: System, tree: tuple[list[Step], str]) -> None:
    await play_tree(on_postgres, tree)


@settings(max_examples=40, deadline=None, suppress_health_check=relaxed)
@given(sequence=commands, ends=ends)
async def test_savepoints_by_hand_on_postgres(on_postgres: System, sequence: list[Command], ends: str) -> None:
    await play_commands(on_postgres, sequence, ends)
