"""accounts-ms, put together: `python -m accounts`."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from cauce import CauceError, Service, new_id, utc_now
from cauce.fastapi import problems
from cauce.hosting import EXIT_CONFIGURATION, run
from cauce.settings import load
from cauce.stores.sqlalchemy import SqlAlchemyStore
from contracts.accounts import NEST_NAMES, SOURCE, UserCreated, UserDeleted, UserUpdated
from fastapi import FastAPI
from seedwork import database, logs
from seedwork.http import application
from seedwork.settings import bridge_from, hosts_of, transport_from
from seedwork.turnstile import Turnstile

from accounts import entrypoints
from accounts.application import Accounts, IdempotencyKeys, Users
from accounts.infrastructure.argon2_hasher import Argon2Hasher
from accounts.infrastructure.idempotency_keys import SqlIdempotencyKeys
from accounts.infrastructure.users import SqlUsers
from accounts.settings import Settings

__all__ = ["build", "main"]

MIGRATIONS: Final = "accounts.migrations"
MAX_BODY_BYTES: Final = 16 * 1024


def build(settings: Settings) -> tuple[Service, FastAPI]:
    """The service and its HTTP application, wired and not started. Its tables must be there: `database.migrate`."""
    service = Service(
        SOURCE,
        version=version("accounts"),
        store=SqlAlchemyStore(database.engine(settings.accounts_database_url)),
        transport=transport_from(settings, NEST_NAMES),
        bridge=bridge_from(settings, NEST_NAMES),
        provide={
            Users: lambda tx: SqlUsers(tx.session),
            IdempotencyKeys: lambda tx: SqlIdempotencyKeys(tx.session),
        },
        publishes=[UserCreated, UserUpdated, UserDeleted],
    )
    hasher = Argon2Hasher(memory_mib=settings.accounts_hashing_memory_mib)
    accounts = Accounts(service.transaction, hasher, new_id=new_id, now=utc_now)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
        try:
            async with service.lifespan(app) as state:
                yield state
        finally:
            hasher.close()

    app = application(
        SOURCE,
        description="User accounts of CloneSpotify. There is no login yet.",
        lifespan=lifespan,
        responses=problems.responses(422, 500, 503),
        max_body_bytes=MAX_BODY_BYTES,
        allowed_hosts=hosts_of(settings.accounts_allowed_hosts, settings.accounts_host),
    )
    entrypoints.install(app, accounts)
    app.add_middleware(Turnstile)
    return service, app


def main() -> int:
    """Run until a signal. The exit code: 0 drained, 1 crashed, 2 could not start."""
    try:
        settings = load(Settings)
        logs.configure(settings)
        database.migrate(settings.accounts_database_url, MIGRATIONS)
        service, app = build(settings)
    except CauceError as error:
        sys.stderr.write(f"{SOURCE}: {error}\n")
        return EXIT_CONFIGURATION
    return run(
        service,
        app=app,
        host=settings.accounts_host,
        port=settings.accounts_port,
        health_port=settings.accounts_health_port,
    )
