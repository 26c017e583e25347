"""Cauce's tables: made once whoever comes first, brought up to date by adding, refused when they are from the future."""

import asyncio
import time
from pathlib import Path

import pytest
from cauce import ConfigurationError
from cauce.stores.sql.schema import SCHEMA, create_tables, ddl, examine
from cauce.stores.sqlalchemy import create_engine
from sqlalchemy import text
from testsupport.shop_and_mail import Command, Project


async def test_many_processes_that_start_at_once_make_them_once(project: Project) -> None:
    engines = [create_engine(project.urls["mail"]) for _ in range(4)]
    await asyncio.gather(*(create_tables(engine) for engine in engines))
    for engine in engines:
        await engine.dispose()
    async with project.database("mail") as mail:
        assert await mail.one("SELECT count(*) FROM cauce_lane") == 16
        assert await mail.one("SELECT count(*) FROM cauce_meta WHERE name = 'incarnation'") == 1


async def test_what_is_missing_is_added_and_what_is_there_stays(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail:
        await mail.handled("mail.welcome", 3)
        incarnation = await mail.one("SELECT value FROM cauce_meta WHERE name = 'incarnation'")
        await mail.run("ALTER TABLE cauce_waiting DROP COLUMN attempt_log")
        await mail.run("DROP INDEX cauce_waiting_next")
        await mail.run("DROP TABLE cauce_audit")

        dry = await cauce("db", "upgrade", "mail", "--dry-run")
        said = await cauce("db", "upgrade", "mail")
        again = await cauce("db", "upgrade", "mail")

        assert dry.out == (
            "mail: version 2, 3 steps:\n"
            "  cauce_audit is missing\n"
            "  cauce_waiting.attempt_log is missing\n"
            "  cauce_waiting_next is missing\n"
        )
        assert said.code == 0
        assert said.out == (
            "mail: version 2, 3 steps:\n  made cauce_audit\n  made cauce_waiting_next\n  added cauce_waiting.attempt_log\n"
        )
        assert again.out == "mail: version 2, nothing to do\n"
        assert await mail.one("SELECT count(*) FROM cauce_inbox") == 3
        assert await mail.one("SELECT value FROM cauce_meta WHERE name = 'incarnation'") == incarnation


async def test_a_start_adds_what_a_build_without_a_new_version_has_added(project: Project) -> None:
    async with project.database("mail") as mail:
        await mail.run("ALTER TABLE cauce_waiting DROP COLUMN attempt_log")
        await mail.run("UPDATE cauce_meta SET value = 'another' WHERE name = 'build'")
        await create_tables(mail.engine)
        async with mail.engine.connect() as connection:
            found = await connection.run_sync(examine)
        assert found.current


async def test_tables_of_a_later_version_stop_the_start_and_nothing_is_changed(
    project: Project, cauce: Command
) -> None:
    async with project.database("mail") as mail:
        await mail.run(f"UPDATE cauce_meta SET value = '{SCHEMA + 1}' WHERE name = 'schema'")
        await mail.run("DROP TABLE cauce_audit")

        with pytest.raises(ConfigurationError, match=f"of version {SCHEMA + 1}, and this Cauce knows {SCHEMA}"):
            await create_tables(mail.engine)
        said = await cauce("db", "upgrade", "mail")

        assert said.code == 2
        assert (
            said.err == f"mail: its tables are of version {SCHEMA + 1}, and this Cauce knows {SCHEMA}. Update Cauce.\n"
        )
        async with mail.engine.connect() as connection:
            assert (await connection.run_sync(examine)).missing == ["cauce_audit"]


async def test_tables_of_an_earlier_version_are_upgraded_unless_a_process_works_with_them(
    project: Project, cauce: Command
) -> None:
    """And the service beside it is upgraded all the same."""
    before = (Path(__file__).parent.parent / "stores/sql/version_1" / f"last-{project.dialect}.sql").read_text()
    for name, lease_until in (("mail", time.time() + 60), ("shop", 5.0)):
        engine = create_engine(project.urls[name])
        async with engine.begin() as connection:
            for statement in before.split(";\n"):
                if statement.strip():
                    await connection.exec_driver_sql(statement)
            member = text("INSERT INTO cauce_member (id, lease_until) VALUES ('old', :until)")
            await connection.execute(member, {"until": lease_until})
        await engine.dispose()

    dry = await cauce("db", "upgrade", "shop", "--dry-run")
    said = await cauce("db", "upgrade", "mail", "shop")
    again = await cauce("db", "upgrade", "shop")

    assert dry.out.splitlines()[1] == (
        "  the tables are of version 1: columns are renamed and rows moved, while no process of the service runs"
    )
    assert said.code == 2
    assert said.err.startswith("mail: its tables are of version 1, and 1 process works with them. Stop every process")
    assert "  renamed cauce_audit.who to actor\n" in said.out
    assert "  moved 0 events that wait, 0 that were sent, 0 set aside\n" in said.out
    assert again.out == "shop: version 2, nothing to do\n"


async def test_the_printed_statements_make_the_same_tables(project: Project, cauce: Command) -> None:
    said = await cauce("db", "sql", "--dialect", project.dialect)
    engine = create_engine(project.urls["mail"])

    async with engine.begin() as connection:
        for statement in said.out.split(";\n"):
            if statement.strip():
                await connection.exec_driver_sql(statement)
        found = await connection.run_sync(examine)
    await engine.dispose()

    assert said.code == 0
    assert found.current
    assert said.out == "".join(f"{statement};\n" for statement in ddl(project.dialect))


async def test_a_service_starts_on_tables_that_were_made_by_hand(project: Project) -> None:
    engine = create_engine(project.urls["mail"])
    async with engine.begin() as connection:
        for statement in ddl(project.dialect):
            await connection.exec_driver_sql(statement)
    await create_tables(engine)
    await engine.dispose()
    async with project.database("mail") as mail:
        assert len(await mail.one("SELECT value FROM cauce_meta WHERE name = 'incarnation'")) >= 32


@pytest.mark.parametrize("dialect", ["postgresql"])
async def test_tables_that_change_all_the_time_are_cleaned_often(project: Project) -> None:
    async with project.database("mail") as mail, mail.engine.connect() as connection:
        found = await connection.execute(
            text("SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND reloptions IS NOT NULL")
        )
        options = {row.relname: set(row.reloptions) for row in found}

    often = {
        "autovacuum_vacuum_scale_factor=0",
        "autovacuum_vacuum_threshold=1000",
        "autovacuum_vacuum_cost_delay=0",
    }
    with_room = often | {"fillfactor=80"}
    assert options == {
        "cauce_outbox": often,
        "cauce_inbox": often,
        "cauce_waiting": often,
        "cauce_key_head": with_room,
        "cauce_position": with_room,
    }


async def test_a_position_is_never_given_twice(project: Project) -> None:
    """Whoever still holds the number of a row that is gone must not take another for it."""
    async with project.database("mail") as mail:
        await mail.waiting("mail.welcome")
        first = await mail.one("SELECT max(position) FROM cauce_waiting")
        await mail.run("DELETE FROM cauce_waiting")
        await mail.waiting("mail.welcome")
        assert await mail.one("SELECT max(position) FROM cauce_waiting") > first


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_upgrade_makes_a_new_file_and_an_unknown_dialect_is_answered(project: Project, cauce: Command) -> None:
    made = await cauce("db", "upgrade", "mail", "--json")
    wrong = await cauce("db", "sql", "--dialect", "sqlit")

    assert made.code == 0
    assert "made cauce_outbox" in made.json["services"]["mail"]
    assert (project.folder / "mail.sqlite").is_file()
    assert wrong.code == 2
    assert wrong.err == ("cauce db sql: --dialect sqlit: not one of postgresql, sqlite. Did you mean 'sqlite'?\n")
