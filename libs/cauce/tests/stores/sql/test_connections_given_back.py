"""A store that is closed leaves no connection open, also not one that is being given back at that moment."""

import asyncio
import gc
import sys
from collections.abc import Callable

import pytest
from cauce.stores import sqlalchemy as sqlalchemy_store
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from sqlalchemy import text


async def test_a_connection_that_is_given_back_while_the_store_closes_is_closed_too(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list[object]()
    heard: Callable[[object], None] = left.append
    monkeypatch.setattr(sys, "unraisablehook", heard)
    store = SqlAlchemyStore(create_engine(url))
    connection = await store.engine.connect()
    await connection.execute(text("SELECT 1"))
    pool = store.engine.pool
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(store.close())
        await asyncio.sleep(0.02)
        await connection.close()
    assert pool.status().endswith("Current Checked out connections: 0")
    del connection, pool, store
    gc.collect()
    assert not left, "drivers say so when they are collected open"


async def test_a_connection_that_nobody_gives_back_holds_the_end_up_for_a_moment_only_and_is_told(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlalchemy_store, "_GIVEN_BACK_S", 0.02)
    store = SqlAlchemyStore(create_engine(url))
    connection = await store.engine.connect()

    await store.close()

    assert "connections of the database that are still in use: 1" in caplog.text
    await connection.invalidate()
    await connection.close()
