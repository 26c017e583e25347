"""The port to what Cauce keeps in a service's database for itself: outbox, lanes, waiting deliveries, dead letters.

Two sides. The *user's side* runs in the transaction of the business change, on its session: `Inbox`, and the rows of
the outbox. The *relay's side* has connections of its own and holds a transaction for milliseconds only: `MessageStore`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from cauce.errors import ConfigurationError
from cauce.ports.inbox import WaitingRoom
from cauce.ports.lanes import Lane, LaneTable
from cauce.ports.outbox import OutboxTable
from cauce.ports.registration import Identity, ListenerInCode

__all__ = ["MessageStore", "Registry", "Work", "belongs_to_another"]


class Registry(Protocol):
    """Who uses this database, and since when."""

    async def incarnation(self) -> str: ...

    async def register(
        self, service: str, listeners: Sequence[ListenerInCode], *, retired: Sequence[str] = ()
    ) -> Mapping[str, Identity]:
        """Register the durable listeners of a service; return under which consumer each has its past, by its name.

        `retired`: names of listeners that are gone on purpose. Raises ConfigurationError, and changes nothing, while
        another service runs on this database, and when an unknown listener listens to an event of one that is gone
        and has a past: nobody could tell whether it was renamed.
        """
        ...

    async def describe(self, service: str, description: str) -> None:
        """Record which service uses this database, and what it says about itself.

        Where a service of another name used it before, it is forgotten where that one's groups began: a new name has
        groups of its own.

        Raises ConfigurationError, and changes nothing, while another service runs on it: lanes, outbox and inbox are
        one service's.
        """
        ...

    async def since(self, topic: str, start: str) -> str:
        """Where this service's group begins in a topic; the first answer is kept for ever."""
        ...


class Work(Struct, frozen=True):
    """Whether something waits: to be sent, or for a listener that is to be called now. True may be said too often."""

    to_send: bool
    due: bool


class MessageStore(OutboxTable, LaneTable, WaitingRoom, Registry, Protocol):
    """The relay's side. Every method is one short transaction; infrastructure errors are the driver's own."""

    async def work(self, lanes: Sequence[Lane]) -> Work:
        """Whether `pending` or `due` would find anything in these lanes: one trip, whatever lies there. Asks the database
        also when there are no lanes."""
        ...


def belongs_to_another(running: str, service: str) -> ConfigurationError:
    """Two services run on one database."""
    problem = (
        f"the service {running!r} runs on it, and lanes, outbox and inbox are one service's: give {service!r} a "
        "database of its own. If it is the same service under a new name, stop the old one first"
    )
    return ConfigurationError([problem], where="the database")
