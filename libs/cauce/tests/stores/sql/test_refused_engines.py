"""Engines and session factories with which a transaction would be none are refused when the store is made."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cauce import ConfigurationError, DomainEvent, Service, on
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from sqlalchemy import create_engine as create_plain_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

SQLITE, POSTGRES = "sqlite+aiosqlite:///{}/refused.sqlite", "postgresql+psycopg://somebody@nowhere.invalid/db"


class Rang(DomainEvent, name="refused.rang"): ...


AUTOCOMMIT = 'has isolation_level="AUTOCOMMIT": nothing could be rolled back; leave it out'


@pytest.fixture(params=[SQLITE, POSTGRES], ids=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.param.format(tmp_path)


def refusal(engine: Any, sessions: Any = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        SqlAlchemyStore(engine, sessions)
    return str(caught.value)


def test_an_engine_in_autocommit_is_refused_however_it_was_said(url: str) -> None:
    engines = [
        create_async_engine(url, isolation_level="AUTOCOMMIT"),
        create_async_engine(url, execution_options={"isolation_level": "AUTOCOMMIT"}),
        create_async_engine(url).execution_options(isolation_level="autocommit"),
    ]
    for engine in engines:
        assert f"the engine {AUTOCOMMIT}" in refusal(engine)
        plain = create_async_engine(url)
        assert f"the engine of the session factory {AUTOCOMMIT}" in refusal(plain, async_sessionmaker(engine))


def test_create_engine_refuses_it_before_there_is_a_store(url: str) -> None:
    for options in ({"isolation_level": "AUTOCOMMIT"}, {"execution_options": {"isolation_level": "AUTOCOMMIT"}}):
        with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
            create_engine(url, **options)


def test_another_level_of_isolation_is_accepted(url: str) -> None:
    SqlAlchemyStore(create_async_engine(url, isolation_level="SERIALIZABLE"))


def test_a_synchronous_engine_is_refused_with_the_way_out(url: str) -> None:
    engine = create_plain_engine(url.replace("+aiosqlite", ""))

    assert "the engine is a sqlalchemy Engine, and an AsyncEngine is needed: make it with" in refusal(engine)
    said = refusal(create_async_engine(url), async_sessionmaker(engine))  # type: ignore[call-overload]  # pyright: ignore
    assert "the session factory is bound to a sqlalchemy Engine" in said


class NoDriver:
    """As much of a driver as SQLAlchemy asks for before it connects."""

    paramstyle, version, Error = "named", "9.9.9", Exception

    def __init__(self, *_: object, **__: object) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return NoDriver


def test_another_database_is_refused(url: str) -> None:
    engine = create_async_engine("oracle+oracledb_async://somebody@nowhere.invalid/db", module=NoDriver())

    assert "the engine is of oracle, which is not served: use sqlite+aiosqlite or postgresql+psycopg" in refusal(engine)
    said = refusal(create_async_engine(url), async_sessionmaker(engine))
    assert "the engine of the session factory is of oracle, which is not served" in said
    assert "the session factory has another database than the store" in said
    with pytest.raises(ConfigurationError, match="database 'mysql' is not supported"):
        create_engine("mysql+aiomysql://somebody@nowhere.invalid/db")


def test_a_factory_that_makes_no_asynchronous_sessions_is_refused(url: str) -> None:
    assert "sessions is a sqlalchemy sessionmaker, and an async_sessionmaker is needed" in refusal(
        create_async_engine(url), sessionmaker(create_plain_engine(url.replace("+aiosqlite", "")))
    )


def test_a_factory_that_begins_nothing_or_commits_in_two_phases_is_refused(url: str) -> None:
    engine = create_async_engine(url)
    assert "autobegin=False" in refusal(engine, async_sessionmaker(engine, autobegin=False))
    assert "twophase=True" in refusal(engine, async_sessionmaker(engine, twophase=True))


def test_a_factory_of_the_same_engine_is_accepted(url: str) -> None:
    engine = create_async_engine(url)
    bound: list[AsyncEngine] = [engine, engine.execution_options(stream_results=True)]
    for one in bound:
        SqlAlchemyStore(engine, async_sessionmaker(one, class_=AsyncSession))


async def test_a_durable_service_in_the_rolled_back_fixture_on_sqlite_is_told_at_once(tmp_path: Path) -> None:
    @on(Rang, when="durable")
    async def hear(event: Rang) -> None: ...

    engine = create_engine(SQLITE.format(tmp_path))
    async with engine.connect() as connection, connection.begin() as outer:
        sessions = async_sessionmaker(connection, join_transaction_mode="create_savepoint")
        service = Service("ring-ms", modules=[hear], store=SqlAlchemyStore(engine, sessions))
        with pytest.raises(ConfigurationError, match=r"its sessions use one connection.*MemoryStore\(\)"):
            async with asyncio.timeout(4), service:
                await service.stopped()
        await outer.rollback()
    await engine.dispose()
