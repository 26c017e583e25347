"""The records of mails: how long they are kept, and what earlier versions wrote."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from mailing.domain import MessageId
from mailing.infrastructure.mail_records import SqlMailRecords
from mailing.infrastructure.upkeep import Upkeep
from mailing.main import MIGRATIONS
from seedwork import database
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = database.engine(database_url)
    yield engine
    await engine.dispose()


async def asked(engine: AsyncEngine, query: str) -> list[Any]:
    async with engine.begin() as connection:
        return list((await connection.execute(text(query))).all())


async def ask(records: SqlMailRecords, event_id: str, *, at: datetime, recipient: str | None = None) -> str:
    return await records.ask(
        event_id=event_id, user_id="1", message_id=MessageId("<1@b.example>"), recipient=recipient, at=at
    )


async def test_records_are_deleted_after_their_time_in_portions(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailing.infrastructure.mail_records._PORTION", 4)
    records = SqlMailRecords(engine)
    for number in range(11):
        await ask(records, f"old-{number}", at=NOW - timedelta(days=31, seconds=number))
        await ask(records, f"new-{number}", at=NOW - timedelta(days=29, seconds=number))
    assert await records.prune(now=NOW, keep=timedelta(days=30)) == 11
    assert {row.event_id for row in await asked(engine, "SELECT event_id FROM mails")} == {
        f"new-{n}" for n in range(11)
    }
    assert await records.prune(now=NOW, keep=timedelta(days=30)) == 0


async def test_a_recipients_hash_is_kept_as_long_as_it_counts(engine: AsyncEngine) -> None:
    records = SqlMailRecords(engine)
    await ask(records, "past", at=NOW - timedelta(minutes=61), recipient="ana@example.com")
    await ask(records, "counts", at=NOW - timedelta(minutes=59), recipient="ana@example.com")
    await records.prune(now=NOW, keep=timedelta(days=30))
    found = await asked(engine, "SELECT event_id FROM mails WHERE recipient IS NOT NULL")
    assert [row.event_id for row in found] == ["counts"]


async def test_the_service_prunes_while_it_runs_and_survives_its_database(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    records = SqlMailRecords(engine)
    await ask(records, "old", at=NOW - timedelta(days=2))
    await asked_to(engine, "ALTER TABLE mails RENAME TO mails_away")
    running = asyncio.get_running_loop().create_task(
        Upkeep(records, keep=timedelta(days=1), now=lambda: NOW, every_s=0.01).run()
    )
    try:
        await until_logged(caplog, "could not be pruned")
        await asked_to(engine, "ALTER TABLE mails_away RENAME TO mails")
        await until_logged(caplog, "records of 1 mails were kept for 1 days")
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert await asked(engine, "SELECT * FROM mails") == []


async def asked_to(engine: AsyncEngine, statement: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement))


async def until_logged(caplog: pytest.LogCaptureFixture, words: str) -> None:
    caplog.set_level("INFO")
    async with asyncio.timeout(30):
        while words not in caplog.text:  # noqa: ASYNC110  # a log has no event
            await asyncio.sleep(0.01)


async def test_of_many_that_ask_at_once_for_one_mailbox_as_many_are_sent_as_the_bound_allows(
    engine: AsyncEngine,
) -> None:
    records = [SqlMailRecords(engine, an_hour=3) for _ in range(3)]
    found = await asyncio.gather(
        *(ask(records[n % 3], f"e{n}", at=NOW, recipient="ana@example.com") for n in range(30))
    )
    assert sorted(found) == ["new"] * 3 + ["over the bound"] * 27
    assert await ask(records[0], "later", at=NOW + timedelta(minutes=61), recipient="ana@example.com") == "new"
    assert await ask(records[0], "other", at=NOW, recipient="bea@example.com") == "new"


# --- what earlier versions wrote ----------------------------------------------------------------------------

OLD_ROW = "INSERT INTO mails (event_id, user_id, message_id, state, reason, begun_at) VALUES ('{0}', 'u', '<{0}>', '{1}', {2}, '2026-11-29 10:00:00')"  # fmt: skip


def first_version(connection: Connection) -> None:
    with Operations.context(MigrationContext.configure(connection)):
        import_module(f"{MIGRATIONS}.0001_mails").upgrade()
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES ('0001')"))
    for event_id, state, reason in (("cut", "sending", "NULL"), ("old", "sent", "NULL"), ("bad", "failed", "'away'")):
        connection.execute(text(OLD_ROW.format(event_id, state, reason)))


@pytest.fixture(params=["sqlite", "postgresql"])
def upgraded_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/mailing.sqlite"
    else:
        url = str(request.getfixturevalue("postgres").database())
    blocking = create_engine(make_url(url).set(drivername=url.partition(":")[0].replace("+aiosqlite", "")))
    with blocking.begin() as connection:
        first_version(connection)
    blocking.dispose()
    database.migrate(url, MIGRATIONS)
    return url


async def test_the_rows_of_the_first_version_are_readable_and_its_processes_go_on(upgraded_url: str) -> None:
    engine = database.engine(upgraded_url)
    try:
        found = await asked(engine, "SELECT event_id, state, reason, code, recipient, unanswered FROM mails ORDER BY 1")
        assert [tuple(row) for row in found] == [
            ("bad", "failed", "away", None, None, 0),
            ("cut", None, None, None, None, 0),
            ("old", "sent", None, None, None, 0),
        ]
        # A process of the first version, beside new ones during a deploy.
        await asked_to(engine, OLD_ROW.format("beside", "sending", "NULL"))
        records = SqlMailRecords(engine)
        answers = {event_id: await ask(records, event_id, at=NOW) for event_id in ("bad", "cut", "old", "beside")}
        assert answers == {"bad": "open", "cut": "open", "old": "settled", "beside": "open"}
        await records.ended("beside", "refused", code=550, reason="no such user", at=NOW)
        assert await ask(records, "beside", at=NOW) == "settled"
        assert await ask(records, "next", at=NOW, recipient="ana@example.com") == "new"
    finally:
        await engine.dispose()
