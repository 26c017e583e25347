"""Engines, migrations at start, and databases that cannot be reached."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cauce import CauceError
from seedwork.database import DatabaseUnavailableError, engine, migrate
from sqlalchemy import make_url, text

FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table("things", sa.Column("name", sa.Text, primary_key=True))
    op.execute("INSERT INTO things VALUES ('first')")
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.add_column("things", sa.Column("colour", sa.Text))
    op.execute("INSERT INTO things VALUES ('second', 'blue')")
"""
BROKEN = """
from alembic import op
revision, down_revision = "0003", "0002"
def upgrade():
    op.execute("CREATE TABLE half_way (id INTEGER)")
    op.execute("INSERT INTO nowhere VALUES (1)")
"""


class Package:
    """A package of migrations that grows."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder
        self._place = folder / name
        self._place.mkdir()
        (self._place / "__init__.py").touch()

    def add(self, *revisions: str) -> None:
        for number, revision in enumerate(revisions, start=len(list(self._place.glob("0*.py"))) + 1):
            (self._place / f"{number:04}.py").write_text(revision)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    name = f"migrations_of_{tmp_path.name}"
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Package(tmp_path, name)
    sys.modules.pop(name, None)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/a/b c/%/things.sqlite"
    return request.getfixturevalue("postgres").database()


async def rows(url: str, query: str = "SELECT * FROM things ORDER BY name") -> list[tuple[Any, ...]]:
    own = engine(url)
    async with own.connect() as connection:
        found = [tuple(row) for row in await connection.execute(text(query))]
    await own.dispose()
    return found


async def test_every_revision_runs_once_and_only_the_new_ones_later(url: str, package: Package) -> None:
    package.add(FIRST)
    migrate(url, package.name)
    package.add(SECOND)

    migrate(url, package.name)
    migrate(url, package.name)

    assert await rows(url) == [("first", None), ("second", "blue")]


async def test_a_migration_that_fails_leaves_the_tables_as_they_were(url: str, package: Package) -> None:
    package.add(FIRST)
    migrate(url, package.name)
    package.add(SECOND, BROKEN)

    with pytest.raises(Exception, match="nowhere"):
        migrate(url, package.name)

    assert await rows(url) == [("first",)]
    assert await rows(url, "SELECT version_num FROM alembic_version") == [("0001",)]


async def test_replicas_that_start_at_the_same_moment_migrate_once(url: str, package: Package) -> None:
    package.add(FIRST, SECOND)
    code = (
        f"import sys; sys.dont_write_bytecode = True; sys.path.insert(0, {str(package.folder)!r})\n"
        f"from seedwork.database import migrate; migrate({url!r}, {package.name!r})"
    )

    def replica() -> tuple[str, int]:
        ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=False, timeout=60)
        return ended.stderr.decode(), ended.returncode

    ended = await asyncio.gather(*(asyncio.to_thread(replica) for _ in range(4)))

    assert ended == [("", 0)] * 4
    assert await rows(url) == [("first", None), ("second", "blue")]


async def test_two_services_of_one_process_may_migrate_at_once(url: str, package: Package) -> None:
    package.add(FIRST)

    await asyncio.gather(*(asyncio.to_thread(migrate, url, package.name) for _ in range(4)))

    assert await rows(url) == [("first",)]


async def test_a_migration_waits_for_a_writer_of_a_running_replica(tmp_path: Path, package: Package) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/things.sqlite"
    package.add(FIRST)
    migrate(url, package.name)
    package.add(SECOND)
    own = engine(url)
    async with own.begin() as connection:
        await connection.execute(text("INSERT INTO things VALUES ('meanwhile')"))
        migrating = asyncio.get_running_loop().run_in_executor(None, migrate, url, package.name)
        await asyncio.wait([migrating], timeout=0.2)
        assert not migrating.done()
    await migrating
    await own.dispose()

    assert len(await rows(url)) == 3


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://u:hunter2@127.0.0.1:1/d", "no PostgreSQL at 127.0.0.1:1/d: Connection refused"),
        ("postgresql+psycopg://u:hunter2@localhost:1/d", "no PostgreSQL at localhost:1/d: Connection refused"),
        ("postgresql+psycopg://u:hunter2@host.invalid/d", "no PostgreSQL at host.invalid:5432/d: failed to resolve"),
        ("sqlite+aiosqlite:////proc/nowhere/things.sqlite", "/proc/nowhere cannot be created"),
        ("sqlite+aiosqlite:////proc/version", "/proc/version cannot be used"),
    ],
)
def test_a_database_out_of_reach_is_one_line_with_what_to_do(url: str, said: str, package: Package) -> None:
    with pytest.raises(DatabaseUnavailableError) as error:
        migrate(url, package.name)

    message = str(error.value)
    assert isinstance(error.value, CauceError)
    assert said in message
    assert "\n" not in message
    assert "hunter2" not in message
    assert error.value.__cause__ is None


def test_a_wrong_password_and_a_missing_database_are_told_apart(postgres: Any, package: Package) -> None:
    url = make_url(postgres.database())
    wrong = {
        "password authentication failed": url.set(password="hunter2"),
        "does not exist": url.set(database="nowhere"),
    }

    for said, one in wrong.items():
        with pytest.raises(DatabaseUnavailableError, match=said) as error:
            migrate(one.render_as_string(hide_password=False), package.name)
        assert "hunter2" not in str(error.value)
        assert str(url.password) not in str(error.value)
        assert "\n" not in str(error.value)


def test_a_package_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no_such_package.*expected"):
        migrate(f"sqlite+aiosqlite:///{tmp_path}/x.sqlite", "no_such_package")
