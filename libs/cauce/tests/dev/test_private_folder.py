"""`.cauce`: whatever made it, others can neither read nor write in it, git ignores it, and PostgreSQL runs there as root."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cauce.admin.database import open_engine
from cauce.admin.targets import Broker, Target
from cauce.dev.account import Account
from cauce.dev.private_folder import make_file, make_folder, outermost, restrict, tighten
from cauce.dev.servers import MailSinkServer, PostgresServer, ValkeyServer, postgres
from cauce.dev.system import DevSystem
from cauce.settings.project import Project
from sqlalchemy import make_url
from testsupport.repository import ROOT

pytestmark = pytest.mark.usefixtures("nothing_left", "_everybody_may_read")

PROJECT = """\
[tool.cauce.dev]
servers = ["valkey", "postgres", "mail-sink"]
[tool.cauce.dev.services.shop]
command = "true"
database = "SHOP_DATABASE_URL"
"""


@pytest.fixture
def _everybody_may_read() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def root() -> Iterator[Path]:
    """A project that PostgreSQL's account can enter."""
    with tempfile.TemporaryDirectory(prefix="cauce-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        Path(name, "pyproject.toml").write_text(PROJECT)
        yield Path(name)


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **more}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    """What others could read, write, or list; passing through a folder (x) is nothing of it."""
    found = [folder, *folder.rglob("*")]
    return [f"{mode(path):o} {path.relative_to(folder)}" for path in found if mode(path) & 0o066]


@pytest.mark.parametrize("store", ["postgres", "sqlite"])
async def test_what_cauce_dev_makes_is_for_its_owner_alone_and_ignored_by_git(root: Path, store: str) -> None:
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)  # noqa: ASYNC221
    async with DevSystem(Project.find(root), environment=environment(STORE=store), only_servers=True) as system:
        if store == "sqlite":
            with sqlite3.connect(system.variables["SHOP_DATABASE_URL"].partition("///")[2]) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("CREATE TABLE kept (a)")
            connection.close()
        assert open_to_others(root / ".cauce") == []
        said = subprocess.run(  # noqa: ASYNC221
            ["git", "status", "--porcelain"], cwd=root, check=True, capture_output=True, text=True
        )
        assert said.stdout == "?? pyproject.toml\n"
    assert open_to_others(root / ".cauce") == []
    assert mode(root / ".cauce") in (0o700, 0o711)
    if store == "sqlite" or os.geteuid() != 0:
        assert mode(root / ".cauce") == 0o700
    assert mode(root) == 0o755, "what is not Cauce's stays as it is"


async def test_a_wider_one_of_an_earlier_version_is_tightened(root: Path) -> None:
    """As they were made before: 755 and 644; with data that PostgreSQL still serves, also as root."""
    async with DevSystem(Project.find(root), environment=environment(), only_servers=True):
        pass
    (root / ".cauce" / ".gitignore").unlink()
    older = root / ".cauce" / "data" / "sqlite" / "shop.sqlite"
    older.parent.mkdir()
    older.write_bytes(b"")
    program = root / ".cauce" / "program"
    program.write_text("#!/bin/sh\n")
    (root / ".cauce" / "link").symlink_to(root / "pyproject.toml")
    for path in (root / ".cauce").rglob("*"):
        if path.lstat().st_uid == os.geteuid() and not path.is_symlink() and "postgres/data" not in str(path):
            path.chmod(0o755 if path.is_dir() or path == program else 0o644)
    (root / ".cauce").chmod(0o755)

    async with DevSystem(Project.find(root), environment=environment(), only_servers=True) as system:
        assert "SHOP_DATABASE_URL" in system.variables
        assert [line for line in open_to_others(root / ".cauce") if not line.endswith(" link")] == []
    assert (mode(older), mode(program)) == (0o600, 0o700)
    assert mode(root / "pyproject.toml") == 0o644, "a link leads out of it"
    assert (root / ".cauce" / ".gitignore").read_text().endswith("\n*\n")


@pytest.mark.parametrize("kind", [ValkeyServer, PostgresServer, MailSinkServer])
def test_a_server_alone_makes_it_private_too(
    root: Path, kind: type[ValkeyServer | PostgresServer | MailSinkServer]
) -> None:
    server = kind(root / ".cauce" / "data" / "one")
    server.start()
    server.stop()
    assert open_to_others(root / ".cauce") == []
    assert (root / ".cauce" / ".gitignore").exists()
    elsewhere = kind(root / "elsewhere" / "one")
    elsewhere.start()
    elsewhere.stop()
    assert open_to_others(root / "elsewhere" / "one") == []
    assert mode(root / "elsewhere") == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL under another account")
def test_as_root_only_the_way_to_postgresql_can_be_passed(root: Path) -> None:
    server = PostgresServer(root / ".cauce" / "demo" / ".cauce" / "data" / "postgres")
    make_folder(root / ".cauce" / "data" / "sqlite")
    server.start()
    server.stop()
    way = [".cauce", ".cauce/demo", ".cauce/demo/.cauce", ".cauce/demo/.cauce/data", ".cauce/demo/.cauce/data/postgres"]
    assert [mode(root / path) for path in way] == [0o711] * len(way)
    assert mode(root / way[-1] / "data") == 0o700
    assert mode(root / ".cauce" / "data") == mode(root / ".cauce" / "data" / "sqlite") == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL under another account")
def test_data_that_were_put_elsewhere_because_the_way_was_closed_are_found_there_when_it_is_open(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_DATA_FOR_ALL", root / "lib")

    def only_elsewhere(_: Account, folder: Path) -> bool:
        return root / ".cauce" not in (folder, *folder.parents) and folder != root

    monkeypatch.setattr(Account, "can_enter", only_elsewhere)
    first = PostgresServer(root / ".cauce" / "data" / "postgres")
    first.start()
    first.stop()
    assert mode(root / ".cauce") == 0o700, "nobody has to pass here"
    (place,) = (root / "lib").iterdir()
    monkeypatch.undo()
    monkeypatch.setattr(postgres, "_DATA_FOR_ALL", root / "lib")
    again = PostgresServer(root / ".cauce" / "data" / "postgres")
    again.start()
    again.stop()
    assert not (root / ".cauce" / "data" / "postgres" / "data").exists()
    assert (place / "data").exists()

    shutil.rmtree(place)
    anew = PostgresServer(root / ".cauce" / "data" / "postgres")
    anew.start()
    anew.stop()
    assert (root / ".cauce" / "data" / "postgres" / "data").exists()


async def test_a_database_made_by_a_command_is_private_in_it_and_left_to_the_umask_elsewhere(root: Path) -> None:
    inside, outside = root / ".cauce" / "data" / "shop.sqlite", root / "made" / "shop.sqlite"
    for file in (inside, outside):
        target = Target(
            name="shop",
            database=make_url(f"sqlite+aiosqlite:///{file}"),
            origin="a test",
            broker=Broker(url="redis://localhost", origin="a test"),
        )
        async with open_engine(target, create_file=True) as engine, engine.begin() as connection:
            await connection.exec_driver_sql("CREATE TABLE kept (a)")
    assert open_to_others(root / ".cauce") == []
    assert (mode(inside), mode(outside.parent), mode(outside)) == (0o600, 0o755, 0o644)


def test_the_repository_makes_it_private_before_redis_7_is_unpacked(root: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert makefile.index("cauce.dev.private_folder .cauce") < makefile.index("scripts/redis7.sh .cauce/redis7")
    subprocess.run([sys.executable, "-m", "cauce.dev.private_folder", ".cauce"], cwd=root, check=True)
    assert mode(root / ".cauce") == 0o700
    assert (root / ".cauce" / ".gitignore").exists()


def test_a_persons_own_gitignore_and_files_keep_what_is_in_them(root: Path) -> None:
    make_folder(root / ".cauce")
    (root / ".cauce" / ".gitignore").write_text("data\n")
    file = root / ".cauce" / "data" / "x.sqlite"
    make_file(file)
    file.write_text("kept")
    make_file(file)
    assert (file.read_text(), (root / ".cauce" / ".gitignore").read_text()) == ("kept", "data\n")


def test_what_is_gone_or_is_no_part_of_it_is_no_trouble(root: Path) -> None:
    restrict(root / "gone")
    tighten(root / "gone")
    assert outermost(root) is None
    assert outermost(root / ".cauce" / "demo" / ".cauce") == root / ".cauce"
