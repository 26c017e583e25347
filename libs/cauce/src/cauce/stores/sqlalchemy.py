"""A service's own database through the user's SQLAlchemy session: PostgreSQL or SQLite."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IllegalStateChangeError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import QueuePool

from cauce.errors import CommitUnknownError, ConfigurationError
from cauce.ports.figures import Figures
from cauce.ports.registration import Joined
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import Outbound, UnitOfWork
from cauce.stores.sql.connections import connected
from cauce.stores.sql.engine import READ_ONLY, create_engine, is_in_memory, keep_promises
from cauce.stores.sql.figures import figures_of
from cauce.stores.sql.hints import SqlHints
from cauce.stores.sql.inbox import SqlInbox
from cauce.stores.sql.message_store import SqlMessageStore
from cauce.stores.sql.refused import problems_of
from cauce.stores.sql.schema import PROBE, create_tables
from cauce.stores.sql.sessions import FollowedSession, Following, follow, joins_an_outer_transaction
from cauce.stores.sql.standard_driver import standard_driver_of
from cauce.stores.sql.trouble import (
    is_refused_as_read_only,
    mark_errors_of,
    spoils_a_listener,
    spoils_our_statement,
)
from cauce.telemetry.connectivity import no_answer

__all__ = ["SqlAlchemyStore", "create_engine"]

log = logging.getLogger("cauce.store")

_ANSWER_LIMIT_S = 2.0
_PROVISIONED_S = 0.005
_GIVEN_BACK_S = 6.0
"""A little longer than SQLite waits for another process that writes."""


class SqlAlchemyStore:
    """Units of work over AsyncSessions of one engine, or of a session factory of your own.

    Sessions may join an outer transaction (the usual rolled-back test fixture): nothing is known to be committed then,
    so nothing that waits for a commit happens.
    """

    session_type: type[AsyncSession] = AsyncSession

    def __init__(
        self,
        engine: AsyncEngine,
        sessions: async_sessionmaker[AsyncSession] | None = None,
        *,
        commit_limit_s: float = 15.0,
    ) -> None:
        """Raises ConfigurationError for an engine or a session factory with which a transaction would not be one.

        `commit_limit_s`: how long a COMMIT may go unanswered before its outcome counts as unknown; psycopg takes up
        to 5 s more to let go of the connection.
        """
        if problems := [*problems_of(engine, sessions)]:
            raise ConfigurationError(problems, where="the store")
        keep_promises(engine)
        self.engine = engine
        mark_errors_of(engine.sync_engine)
        self._sessions = sessions or async_sessionmaker(
            engine, expire_on_commit=False, sync_session_class=FollowedSession
        )
        self._commit_limit_s = commit_limit_s

    @classmethod
    def from_environment(cls, variable: str = "DATABASE_URL") -> "SqlAlchemyStore":
        """Make a store for a program without settings of its own. ConfigurationError if the variable is not set."""
        url = os.environ.get(variable)
        if not url:
            raise ConfigurationError(
                [f"{variable} is not set; expected sqlite+aiosqlite:///FILE or postgresql+psycopg://USER:PASS@HOST/DB"]
            )
        return cls(create_engine(url))

    @property
    def name(self) -> str:
        return self.engine.dialect.name

    @property
    def durable(self) -> bool:
        return self.name != "sqlite" or not is_in_memory(self.engine.url)

    def begin(
        self,
        savepoints: Savepoints[Any],
        *,
        read_only: bool,
        outgoing: Outbound | None = None,
        guarded: bool = False,
    ) -> "_Work":
        session = self._sessions()
        if read_only and isinstance(session.bind, AsyncEngine):
            session.bind = session.bind.execution_options(**READ_ONLY, postgresql_readonly=True)
            session.sync_session.bind = session.bind.sync_engine
        following = follow(session.sync_session, savepoints, None if read_only else outgoing, guarded=guarded)
        return _Work(session, following, commit_limit_s=self._commit_limit_s)

    async def prepare(self) -> None:
        if self.name == "sqlite" and isinstance(self._sessions.kw.get("bind"), AsyncConnection):
            problem = (
                "its sessions use one connection, whose open transaction lets nobody else write on SQLite, and durable "
                "delivery writes beside it. Give the test a file of its own, or store=MemoryStore() with MemoryStreams()"
            )
            raise ConfigurationError([problem], where="the store")
        await create_tables(self.engine)

    async def prepared(self) -> bool:
        return await self._failure_of(PROBE) is None

    def message_store(self) -> SqlMessageStore:
        return SqlMessageStore(self.engine)

    def hints(self) -> SqlHints | None:
        return SqlHints(self.engine) if self.engine.driver == "psycopg" else None

    def inbox(self, work: UnitOfWork, joined: Mapping[str, Joined] | None = None) -> SqlInbox:
        return SqlInbox(cast("AsyncSession", work.session), joined or {})

    def is_infrastructure(self, error: BaseException, *, from_listener: bool = False) -> bool:
        return spoils_a_listener(error, self.engine.sync_engine) if from_listener else spoils_our_statement(error)

    async def figures(self) -> Figures:
        return await figures_of(self.engine)

    async def problem(self) -> str | None:
        failure = await self._failure_of("SELECT 1")
        return None if failure is None else no_answer(failure)

    async def _failure_of(self, statement: str) -> Exception | None:
        """Why this statement, which reads a row at most, has no answer within two seconds; None if it has."""
        try:
            async with asyncio.timeout(_ANSWER_LIMIT_S), connected(self.engine) as connection:
                await connection.execution_options(**READ_ONLY)
                await connection.execute(text(statement))
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            return error
        return None

    async def close(self) -> None:
        """Close the engine's connections, unless the sessions use one connection that the user's code opened."""
        if (own := standard_driver_of(self.engine)) is not None:
            await own.close()
        if not isinstance(self._sessions.kw.get("bind"), AsyncConnection):
            await self._all_given_back()
            await self.engine.dispose()

    async def _all_given_back(self) -> None:
        """Wait a moment for connections that are still out. A task that was cancelled gives its connection back behind its
        own end, and what comes back to a pool that was disposed of stays open, and is closed by nobody."""
        pool = self.engine.pool
        if not isinstance(pool, QueuePool):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_GIVEN_BACK_S):
                while pool.checkedout():  # noqa: ASYNC110  # the pool tells nobody
                    await asyncio.sleep(0.005)
        if left := pool.checkedout():
            log.warning(
                "connections of the database that are still in use: %d. They stay open when they are given back", left
            )


class _Work:
    """One transaction of a session; its connection is given back however it ends."""

    def __init__(self, session: AsyncSession, following: Following, *, commit_limit_s: float) -> None:
        self._session = session
        self._following = following
        self._commit_limit_s = commit_limit_s
        # Ask now: once its own transaction runs, a session bound to a connection looks the same either way.
        self._joined = joins_an_outer_transaction(session.sync_session)

    @property
    def session(self) -> AsyncSession:
        return self._session

    @property
    def joined(self) -> bool:
        return self._joined

    def take_part(self) -> None:
        if not self._session.in_transaction():
            self._session.sync_session.begin()  # no connection is taken before the first statement

    def check(self) -> None:
        self._following.check()

    async def commit(self) -> None:
        try:
            await self._commit()
        except BaseException:
            with suppress(SQLAlchemyError):  # a transaction that the database has ended already cannot be rolled back
                await self._end()
            raise
        await self._end()

    async def _commit(self) -> None:
        session, following = self._session, self._following
        following.check()
        following.may_commit()
        if not session.in_transaction():
            return
        if session.new or session.dirty or session.deleted:
            try:
                await session.flush()
            except BaseException:
                await session.rollback()
                raise
        try:
            async with asyncio.timeout(self._commit_limit_s):
                await session.commit()
        except TimeoutError:
            await session.invalidate()
            raise CommitUnknownError from None
        except DBAPIError as error:
            if error.connection_invalidated and not is_refused_as_read_only(error):
                raise CommitUnknownError from error
            raise

    async def rollback(self) -> None:
        self._following.ending = True
        await self._end()

    async def _end(self) -> None:
        self._following.ended = True
        while True:
            try:
                return await self._session.close()  # rolls back; a connection that broke is dropped by the pool
            except IllegalStateChangeError:  # a task that outlives the block is being given a connection in it just now
                await asyncio.sleep(_PROVISIONED_S)

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        return self._savepoint()

    @asynccontextmanager
    async def _savepoint(self) -> AsyncGenerator[None]:
        async with self._session.begin_nested():
            yield
