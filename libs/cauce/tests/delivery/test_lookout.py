"""What no hint told of is found by one look at the database, which wakes the loop that it is for."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from cauce.delivery.lanes.ownership import Ownership
from cauce.delivery.lookout import Lookout
from cauce.ports.lanes import LANES, MemberId
from cauce.ports.message_store import MessageStore
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.telemetry.connectivity import DatabaseStatus
from cauce.testing.store_contract import LISTENER, envelope, unit
from testsupport.waiting import until


class Looking:
    """A lookout over real rows, and how often it woke whom."""

    def __init__(self, message_store: MessageStore) -> None:
        trouble = DatabaseStatus("shop", logging.getLogger("test"))
        self.to_send, self.due = asyncio.Event(), asyncio.Event()
        self.ownership = Ownership(message_store, MemberId("me"), busy=lambda _: False, trouble=trouble)
        self.lookout = Lookout(
            message_store=message_store,
            ownership=self.ownership,
            trouble=trouble,
            to_send=self.to_send.set,
            due=self.due.set,
        )

    async def quiet(self) -> None:
        """All lanes are ours, and have been looked at since."""
        await until(lambda: len(self.ownership.lanes()) == LANES and self.to_send.is_set())
        self.to_send.clear()
        await asyncio.sleep(2)  # the look that noticed the lanes, if it was not yet
        self.to_send.clear()
        self.due.clear()


@asynccontextmanager
async def looking(store: SqlAlchemyStore) -> AsyncGenerator[Looking]:
    looks = Looking(store.message_store())
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one) for one in (looks.ownership.run(), looks.lookout.run())]
        yield looks
        for task in running:
            task.cancel()


async def test_what_nobody_told_of_wakes_the_loop_that_it_is_for_and_no_other(store: SqlAlchemyStore) -> None:
    async with looking(store) as looks:
        await looks.quiet()
        assert not looks.to_send.is_set()

        await store.message_store().adopt(envelope(1), known_to=[])
        await until(looks.to_send.is_set)
        assert not looks.due.is_set()

        async with unit(store) as tx:
            tx.publish(envelope(2), consumer=LISTENER)
        await until(looks.due.is_set)
    assert looks.lookout.seen is None, "nothing is known of a database that is not asked any more"


async def test_a_database_that_cannot_be_used_is_known_until_it_can(
    store: SqlAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with looking(store) as looks:
        await until(lambda: looks.lookout.seen is not None and looks.lookout.seen.problem is None)
        with monkeypatch.context() as broken:
            broken.setattr(type(store.message_store()), "work", _refused)
            await until(lambda: looks.lookout.seen is not None and looks.lookout.seen.problem is not None)
        assert looks.lookout.seen is not None
        assert looks.lookout.seen.problem == "the database does not answer (ConnectionRefusedError)"
        await until(lambda: looks.lookout.seen is not None and looks.lookout.seen.problem is None)


async def _refused(*_: object) -> None:
    raise ConnectionRefusedError
