"""Engines and session factories that are refused: with them a transaction would not be one."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker

from cauce.settings.tls_files import POSTGRESQL, problems_of_files

__all__ = ["SERVED", "problems_of"]

SERVED = ("sqlite", "postgresql")
_INSTEAD = "make it with cauce.stores.sqlalchemy.create_engine(url)"


def problems_of(engine: object, sessions: object) -> Iterator[str]:
    """What is wrong with the engine of a store and with the factory of its sessions, if it has one of its own."""
    if not isinstance(engine, AsyncEngine):
        yield f"the engine is {_kind(engine)}, and an AsyncEngine is needed: {_INSTEAD}"
    else:
        yield from _problems_of_engine(engine, "the engine")
    if sessions is None:
        return
    if not isinstance(sessions, async_sessionmaker):
        yield f"sessions is {_kind(sessions)}, and an async_sessionmaker is needed: async_sessionmaker(engine)"
        return
    yield from _problems_of_factory(sessions.kw, engine)


def _problems_of_factory(options: dict[str, Any], engine: object) -> Iterator[str]:
    bind = options.get("bind")
    if isinstance(bind, (AsyncEngine, AsyncConnection)):
        if bind is not engine:
            yield from _problems_of_engine(bind, "the engine of the session factory")
            if isinstance(engine, AsyncEngine) and bind.dialect.name != engine.dialect.name:
                yield "the session factory has another database than the store: give both the same engine"
    elif bind is not None:
        yield f"the session factory is bound to {_kind(bind)}, and an AsyncEngine is needed: {_INSTEAD}"
    if options.get("twophase"):
        yield "the session factory says twophase=True, whose outcome is not known when a block ends; leave it out"
    if options.get("autobegin") is False:
        yield "the session factory says autobegin=False, and nothing would begin the transaction; leave it out"


def _problems_of_engine(engine: AsyncEngine | AsyncConnection, what: str) -> Iterator[str]:
    sync: Any = engine.sync_engine
    if isinstance(engine, AsyncConnection) and engine.sync_connection is not None:
        sync = engine.sync_connection
    if engine.dialect.name not in SERVED:
        yield f"{what} is of {engine.dialect.name}, which is not served: use sqlite+aiosqlite or postgresql+psycopg"
    levels = (sync.get_execution_options().get("isolation_level"), getattr(engine.dialect, _AT_CONNECT, None))
    if any(str(level).upper() == "AUTOCOMMIT" for level in levels):
        yield f'{what} has isolation_level="AUTOCOMMIT": nothing could be rolled back; leave it out'
    if engine.dialect.name == "postgresql":
        yield from problems_of_files(sync.engine.url.query, POSTGRESQL)


_AT_CONNECT = "_on_connect_isolation_level"
"""Where a dialect keeps the `isolation_level` of `create_async_engine`; no other way to ask for it without connecting."""


def _kind(thing: object) -> str:
    return f"a {type(thing).__module__.partition('.')[0]} {type(thing).__name__}"
