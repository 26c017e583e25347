"""No value of a row or a parameter appears in an error of the database: not in a log, a dead letter or a waiting row."""

import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from cauce import IntegrationEvent, Service, Transaction, on
from cauce.dev.servers import ScratchDatabases
from cauce.listeners.retry import Retry
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.memory_streams import MemoryStreams
from sqlalchemy import Column, Enum, MetaData, Table, Text, insert, text
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from testsupport.waiting import until

SECRET = 'ana"HINT: \nHINT: @example.com'
"""It tries to look like another part of the error."""
MINE = "example.com"


class SignedUp(IntegrationEvent, name="values.signed-up", version=1, source="values-ms", key="number"):
    number: int
    email: str


@pytest.fixture(params=["sqlite", "postgresql"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncEngine]:
    url = f"sqlite+aiosqlite:///{tmp_path}/values.sqlite"
    if request.param == "postgresql":
        url = cast("ScratchDatabases", request.getfixturevalue("postgres")).database()
    engine = create_engine(url)
    async with engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE users (email TEXT PRIMARY KEY, number INTEGER NOT NULL CHECK (number > 0))")
        )
        await connection.execute(text("INSERT INTO users VALUES (:email, 1)"), {"email": SECRET})
    yield engine
    await engine.dispose()


INSERT = "INSERT INTO users (email, number) VALUES (:email, :number)"


async def test_no_value_is_in_the_text_of_an_error_and_what_happened_is(engine: AsyncEngine) -> None:
    mistakes: list[tuple[str, dict[str, Any], str]] = [
        (INSERT, {"email": SECRET, "number": 2}, "users"),
        (INSERT, {"email": f"{SECRET} too", "number": None}, "number"),
        (INSERT, {"email": f"{SECRET} too", "number": -1}, "number"),
        ("SELECT nothing_of_that_name FROM users", {}, "nothing_of_that_name"),
    ]
    if engine.dialect.name == "postgresql":
        mistakes += [
            ("SELECT CAST(CAST(:email AS text) AS integer)", {"email": SECRET}, "integer"),
            ("SELECT CAST(CAST(:email AS text) AS date)", {"email": SECRET}, "date"),
            ("SELECT CAST(CAST(:email AS text) AS json)", {"email": SECRET}, "json"),
            (
                "INSERT INTO users VALUES (repeat('x', 3000) || random() || :email || md5('x'), 0)",
                {"email": SECRET},
                "users",
            ),
        ]
    for statement, values, said in mistakes:
        with pytest.raises(DBAPIError) as caught:
            async with engine.begin() as connection:
                await connection.execute(text(statement), values)
        error: BaseException | None = caught.value
        assert said in str(error)
        while error is not None:
            assert MINE not in f"{error} {error!r} {error.args}", statement
            error = error.__cause__ or error.__context__


async def test_an_error_at_the_commit_names_no_value_either(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE letters (email TEXT REFERENCES users DEFERRABLE INITIALLY DEFERRED)")
        )
    with pytest.raises(DBAPIError, match=r"(?i)foreign key") as caught:
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO letters VALUES (:email)"), {"email": f"another {SECRET}"})
    assert MINE not in str(caught.value)


async def test_the_driver_still_has_the_detail_for_code_that_asks(engine: AsyncEngine) -> None:
    if engine.dialect.name != "postgresql":
        pytest.skip("SQLite names no values")
    with pytest.raises(DBAPIError) as caught:
        async with engine.begin() as connection:
            await connection.execute(text(INSERT), {"email": SECRET, "number": 2})
    assert MINE in caught.value.orig.diag.message_detail  # type: ignore[union-attr]  # pyright: ignore


async def test_a_value_that_is_not_of_its_type_is_not_named(engine: AsyncEngine) -> None:
    table = Table(
        "moods",
        MetaData(),
        Column("mood", Enum("calm", "cross", native_enum=False, validate_strings=True)),
        Column("why", Text),
    )
    with pytest.raises(StatementError, match="not one of the type's") as caught:
        async with engine.begin() as connection:
            await connection.execute(insert(table).values(mood=SECRET))
    assert MINE not in f"{caught.value} {caught.value.orig}"


@pytest.mark.parametrize("made_by", ["us", "SQLAlchemy"])
async def test_no_value_is_logged_kept_or_shown_of_a_listeners_error(
    engine: AsyncEngine, made_by: str, caplog: pytest.LogCaptureFixture
) -> None:
    @on(SignedUp, name="fails", retry=Retry(attempts=2, base=0.01, cap=0.01))
    async def fails(event: SignedUp, tx: Transaction) -> None:
        await tx.session.execute(text(INSERT), {"email": event.email, "number": 2})

    @on(SignedUp, name="waits", retry=Retry(attempts=9, base=1000, cap=1000))
    async def waits(event: SignedUp, tx: Transaction) -> None:
        await tx.session.execute(text(INSERT), {"email": event.email, "number": 2})

    @on(SignedUp, name="swallows", retry=Retry(attempts=1))
    async def swallows(event: SignedUp, tx: Transaction) -> None:
        with suppress(DBAPIError):
            await tx.session.execute(text(INSERT.replace("INSERT", conflict)), {"email": event.email, "number": 2})

    conflict = "INSERT OR ROLLBACK" if engine.dialect.name == "sqlite" else "INSERT"
    used = engine if made_by == "us" else create_async_engine(engine.url, hide_parameters=True)
    store = SqlAlchemyStore(used)
    service = Service(
        "values-ms",
        modules=[fails, waits, swallows],
        store=store,
        transport=MemoryStreams(),
        publishes=[SignedUp],
        start="retained",
    )
    with caplog.at_level(logging.INFO):
        async with service:
            async with service.transaction() as tx:
                await tx.publish(SignedUp(number=1, email=SECRET))
            await until(lambda: service.counters["dead"] >= 2 and service.counters["waiting"] >= 2)
            dead = await store.message_store().dead()
            async with used.connect() as connection:
                rows = (await connection.execute(text("SELECT error, attempt_log FROM cauce_waiting"))).all()
    await used.dispose()

    assert len(dead) == 2
    assert len(rows) == 3
    assert MINE not in "".join(f"{one.error}{one.stack}" for one in dead)
    assert MINE not in str(rows)
    assert MINE not in caplog.text
