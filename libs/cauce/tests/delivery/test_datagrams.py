"""Hints on one machine: they reach the process that is named, and nothing about them can fail or block the sender."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from cauce.delivery.wakeups.datagrams import Datagrams
from cauce.ports.hints import Hint
from cauce.ports.lanes import MemberId

A, B = MemberId("a"), MemberId("b")


@contextmanager
def opened(member: MemberId) -> Generator[Datagrams]:
    made = Datagrams.open(member)
    assert made
    with closing(made):
        yield made


@asynccontextmanager
async def heard_by(process: Datagrams) -> AsyncGenerator[asyncio.Queue[Hint]]:
    hints: asyncio.Queue[Hint] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(process.listen(hints.put_nowait))
        yield hints
        listening.cancel()


def left_behind(member: MemberId) -> None:
    """The socket of a process that was killed."""
    with opened(member) as killed:
        killed.path = killed.path.with_suffix(".elsewhere")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A short path: that of a socket may have a hundred characters."""
    with tempfile.TemporaryDirectory(prefix="hints-") as name:
        monkeypatch.setattr(tempfile, "gettempdir", lambda: name)
        yield Path(name)


async def test_a_hint_reaches_the_process_of_that_name() -> None:
    with opened(A) as here, opened(B) as there:
        async with heard_by(there) as hints:
            assert here.send(Hint.WAITING, B)
            assert await hints.get() == Hint.WAITING


async def test_a_process_that_does_not_read_blocks_nobody_and_is_told_once_it_does() -> None:
    with opened(A) as here, opened(B) as there:
        assert all(here.send(Hint.TO_SEND, B) for _ in range(10_000))
        async with heard_by(there) as hints:
            assert await hints.get() == Hint.TO_SEND


async def test_bytes_that_mean_nothing_wake_nobody_and_end_nothing() -> None:
    with opened(A) as here, opened(B) as there:
        async with heard_by(there) as hints:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
                for nonsense in (b"", b"\xff", b"long" * 100):
                    stranger.sendto(nonsense, str(there.path))
            here.send(Hint.TO_SEND, B)
            assert await hints.get() == Hint.TO_SEND


def test_a_process_that_was_killed_is_found_to_be_gone_and_its_socket_removed() -> None:
    with opened(A) as here:
        left_behind(B)
        assert here.is_here(B)

        assert not here.send(Hint.TO_SEND, B)

        assert not here.is_here(B)


def test_what_killed_processes_have_left_is_removed_when_another_one_begins() -> None:
    with opened(A) as here:
        left_behind(B)
        with opened(MemberId("c")):
            assert not here.is_here(B)
            assert here.is_here(A)


def test_the_folder_is_private_and_one_that_others_may_write_to_is_not_used(folder: Path) -> None:
    with opened(A):
        (made,) = folder.iterdir()
        assert made.stat().st_mode & 0o777 == 0o700
        assert [*made.iterdir()]
    assert not [*made.iterdir()]
    made.chmod(0o777)

    assert Datagrams.open(A) is None


def test_where_no_socket_can_be_made_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = folder / ("d" * 150)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(deep))

    assert Datagrams.open(A) is None
