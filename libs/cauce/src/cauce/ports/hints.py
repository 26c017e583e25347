"""Hints between the processes of a service: there is work for you. Lost ones cost a wait, because every loop polls too."""

from collections.abc import Callable, Collection
from enum import Flag, auto
from typing import Protocol, runtime_checkable

from cauce.ports.lanes import MemberId

__all__ = ["Hint", "Hints", "SupportsHints", "Woken"]


class Hint(Flag):
    """What there is to look for."""

    TO_SEND = auto()
    WAITING = auto()


Woken = Callable[[Hint], None]


class Hints(Protocol):
    """One way for hints to other machines."""

    async def send(self, hint: Hint, members: Collection[MemberId]) -> None:
        """Wake these processes, as far as they listen. Raises the driver's own errors."""
        ...

    async def listen(self, me: MemberId, woken: Woken) -> None:
        """Call `woken` with every hint for this process, until cancelled. Raises the driver's own errors."""
        ...


@runtime_checkable
class SupportsHints(Protocol):
    """A store whose database tells the processes that use it."""

    def hints(self) -> Hints | None:
        """None where the database has no such way: on SQLite all processes are on one machine."""
        ...
