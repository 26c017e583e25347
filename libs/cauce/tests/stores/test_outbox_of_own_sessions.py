"""Code that owns its session, asynchronous or not, publishes through the outbox in its own transaction."""

import asyncio
from collections.abc import Collection, Sequence

import pytest
from cauce import ConfigurationError, IntegrationEvent, PublishError
from cauce.formats.cloudevents import from_json
from cauce.ports.lanes import LANES, Lane
from cauce.ports.outbox import OutboxRow
from cauce.stores.outbox import Outbox
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from sqlalchemy import create_engine as create_plain_engine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session


class SignedUp(IntegrationEvent, name="own.signed-up", version=1, key="id", source="own"):
    id: str


class Elsewhere(IntegrationEvent, name="own.elsewhere", version=1, source="another"):
    id: str


OUTBOX = Outbox("own", publishes=[SignedUp])
ALL = [Lane(lane) for lane in range(LANES)]


async def rows_in_the_outbox(url: str, *, besides: Collection[int] = ()) -> Sequence[OutboxRow]:
    store = SqlAlchemyStore(create_engine(url))
    try:
        return await store.message_store().pending(ALL, limit=100, besides=besides)
    finally:
        await store.close()


async def keys_in_the_outbox(url: str) -> list[str | None]:
    return [row.key for row in await rows_in_the_outbox(url)]


async def prepare(url: str) -> None:
    store = SqlAlchemyStore(create_engine(url))
    await store.prepare()
    await store.close()


async def test_an_asynchronous_session_of_ones_own_publishes_with_its_commit(url: str) -> None:
    await prepare(url)
    engine = create_engine(url)
    async with AsyncSession(engine) as session, session.begin():
        OUTBOX.add(session, SignedUp(id="kept"))
        async with session.begin_nested():
            OUTBOX.add(session, SignedUp(id="kept too"))
        undone = await session.begin_nested()
        OUTBOX.add(session, SignedUp(id="undone"))
        await undone.rollback()
    with pytest.raises(LookupError):
        async with AsyncSession(engine) as session, session.begin():
            OUTBOX.add(session, SignedUp(id="rolled back"))
            raise LookupError
    await engine.dispose()

    assert await keys_in_the_outbox(url) == ["kept", "kept too"]


async def test_every_message_says_its_own_number_whatever_its_key_looks_like(url: str) -> None:
    await prepare(url)
    engine = create_engine(url)
    keys = ["a", 'x","sequence":"999999999999999999","incarnation":"------------------------------------"', "ñ\\'"]
    for _ in range(2):
        async with AsyncSession(engine) as session, session.begin():
            for key in (*keys, "a"):
                OUTBOX.add(session, SignedUp(id=key))
    await engine.dispose()

    written = [from_json(row.message) for row in await rows_in_the_outbox(url)]

    assert [(one.key, one.key_seq) for one in written] == [
        *((key, 1) for key in keys), ("a", 2), ("a", 3), *((key, 2) for key in keys[1:]), ("a", 4),
    ]  # fmt: skip
    assert len({one.incarnation for one in written}) == 1
    assert written[0].incarnation


async def test_rows_that_are_being_marked_are_not_read_again(url: str) -> None:
    await prepare(url)
    engine = create_engine(url)
    async with AsyncSession(engine) as session, session.begin():
        for key in ("first", "second", "third"):
            OUTBOX.add(session, SignedUp(id=key))
    await engine.dispose()
    first, second, third = await rows_in_the_outbox(url)

    found = await rows_in_the_outbox(url, besides=[first.position, third.position])

    assert found == [second]


async def test_a_savepoint_opened_before_the_first_event_takes_it_along(url: str) -> None:
    await prepare(url)
    engine = create_engine(url)
    async with AsyncSession(engine) as session, session.begin():
        savepoint = await session.begin_nested()
        OUTBOX.add(session, SignedUp(id="undone"))
        await savepoint.rollback()
        OUTBOX.add(session, SignedUp(id="kept"))
    await engine.dispose()

    assert await keys_in_the_outbox(url) == ["kept"]


def test_a_synchronous_session_publishes_with_its_commit(url: str) -> None:
    asyncio.run(prepare(url))
    engine = create_plain_engine(url.replace("+aiosqlite", ""))
    with Session(engine) as session, session.begin():
        session.execute(text("SELECT 1"))
        OUTBOX.add(session, SignedUp(id="first"))
    with Session(engine) as session:
        OUTBOX.add(session, SignedUp(id="second"))
        session.commit()
        OUTBOX.add(session, SignedUp(id="third"))
        session.rollback()
    engine.dispose()

    assert asyncio.run(keys_in_the_outbox(url)) == ["first", "second"]


async def test_inside_the_rolled_back_session_of_a_test_nothing_is_left(url: str) -> None:
    await prepare(url)
    engine = create_engine(url)
    async with engine.connect() as connection:
        outer = await connection.begin()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            OUTBOX.add(session, SignedUp(id="of a test"))
            await session.commit()
        await outer.rollback()
    await engine.dispose()

    assert await keys_in_the_outbox(url) == []


def test_an_event_of_another_service_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="Elsewhere belongs to another; this is the outbox of own"):
        Outbox("own", publishes=[Elsewhere])


def test_an_event_that_was_not_announced_is_refused() -> None:
    with pytest.raises(PublishError, match="own does not say that it publishes Elsewhere"):
        OUTBOX.add(Session(), Elsewhere(id="x"))
