"""Whose database a service of this name works with, as the broker has it noted: two environments do not share events.

Two processes of one name are one service to the broker, and each is given a part of the events. With one database that
is how they share the work; with two databases each misses what the other got, without a sign of it.
"""

import asyncio
from collections.abc import Collection, Mapping

from cauce.concurrency.backoff import Backoff
from cauce.errors import ConfigurationError, TransportUnavailableError
from cauce.ports.message_store import MessageStore
from cauce.ports.transport import RegistersDatabases, Status
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["Registration"]

_AGAIN_S = 1.0


class Registration:
    """Notes our database at the broker before anything is sent or read, and again whenever the broker was away: it may
    have lost its data, and then whoever comes first is noted."""

    def __init__(
        self,
        service: str,
        topics: Collection[str],
        *,
        broker: RegistersDatabases,
        message_store: MessageStore,
        status: Status,
        trouble: DatabaseStatus,
        confirm_every_s: float,
    ) -> None:
        self._service = service
        self._topics = topics
        self._broker = broker
        self._message_store = message_store
        self._status = status
        self._trouble = trouble
        self._confirm_every_s = confirm_every_s
        self._back = asyncio.Event()
        self.stands = False
        """Whether it is certain that what we read is ours. While it is not, nothing is read."""

    async def begin(self) -> None:
        """Return once it is noted. Raises ConfigurationError if another database is."""
        if problem := await self._noted_or_problem():
            raise ConfigurationError([problem], where="the broker")

    async def keep(self) -> None:
        """Confirm it when the broker is back, and now and then, until cancelled. While another database is noted, the
        service is not ready and reads nothing; it continues as soon as that is set right."""
        while True:
            try:
                async with asyncio.timeout(self._confirm_every_s if self.stands else None):
                    await self._back.wait()
            except TimeoutError:
                pass
            self._back.clear()
            while problem := await self._noted_or_problem():
                self.stands = False
                self._status.down(problem, retry_in_s=_AGAIN_S)
                await asyncio.sleep(_AGAIN_S)

    def watched(self, status: Status) -> Status:
        """The status of the loop that is the first to notice when the broker is away, and when it is back."""
        return _Watched(self, status)

    def doubt(self) -> None:
        self.stands = False

    def confirm(self) -> None:
        self._back.set()

    async def _noted_or_problem(self) -> str | None:
        """None once it is noted; otherwise what is noted instead. Tries until both the broker and the database answer."""
        backoff = Backoff(_AGAIN_S, _AGAIN_S)
        while True:
            try:
                database = await self._message_store.incarnation()
                others = await self._broker.register_database(self._topics, self._service, database)
            except TransportUnavailableError as error:
                self._status.down(str(error), retry_in_s=backoff.pause_s)
            except Exception as error:
                self._trouble.down(error, retry_in_s=backoff.pause_s)
            else:
                break
            await backoff.pause()
            backoff.grow()
        if others:
            return _problem(self._service, database, others)
        self.stands = True
        self._status.up()
        return None


class _Watched:
    def __init__(self, registration: Registration, status: Status) -> None:
        self._registration = registration
        self._status = status
        self._was_up = False

    def up(self) -> None:
        if self._was_up or not self._registration.stands:  # the first time it was noted just now
            self._registration.confirm()
        self._was_up = True
        self._status.up()

    def down(self, reason: str, *, retry_in_s: float) -> None:
        self._registration.doubt()
        self._status.down(reason, retry_in_s=retry_in_s)


def _problem(service: str, database: str, others: Mapping[str, str]) -> str:
    noted = ", ".join(sorted({one[:8] for one in others.values()}))
    where = ", ".join(sorted(others))
    return (
        f"{service} is registered on this broker with another database than this one, in the topics {where} (incarnation "
        f"{noted}; this database has {database[:8]}). Each of the two would get a part of the events. "
        "→ if this is another environment, give it a broker or a prefix of its own: RedisStreams(url, prefix='staging'); "
        f"if this database replaces the other one: cauce db restored {service}"
    )
