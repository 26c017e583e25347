"""Where music-discovery-ms is put together: HTTP and integration events in one process."""

import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from cauce import CauceError, Service
from cauce.fastapi import problems
from cauce.hosting import EXIT_CONFIGURATION, run
from cauce.settings import load
from cauce.stores.sqlalchemy import SqlAlchemyStore
from contracts.accounts import NEST_NAMES
from contracts.music_discovery import SOURCE, UserFavoritesUpdated
from fastapi import FastAPI, Request, Response
from seedwork import database, logs
from seedwork.http import application
from seedwork.settings import bridge_from, hosts_of, transport_from

from music_discovery import audit
from music_discovery.playlist_catalog.application import PublicPlaylistUseCases
from music_discovery.playlist_catalog.entrypoints import http as playlist_catalog_http
from music_discovery.playlist_catalog.entrypoints import listeners as playlist_catalog_listeners
from music_discovery.playlist_catalog.infrastructure import SqlPublicPlaylists
from music_discovery.settings import Settings
from music_discovery.user_catalog.application import UserCatalogUseCases
from music_discovery.user_catalog.domain import BeyondLimitError
from music_discovery.user_catalog.entrypoints import http as user_catalog_http
from music_discovery.user_catalog.entrypoints import listeners as user_catalog_listeners
from music_discovery.user_catalog.infrastructure import SqlUserCatalogs

__all__ = ["MIGRATIONS", "build", "main"]

MIGRATIONS = "music_discovery.migrations"
MAX_BODY_BYTES = 1024 * 1024


def build(settings: Settings) -> tuple[Service, FastAPI]:
    """The service and its application, whose lifespan is the service's. Connects to nothing.

    The tables must be there: see `seedwork.database.migrate` and MIGRATIONS.
    """
    service = Service(
        SOURCE,
        version=version("music-discovery"),
        modules=[user_catalog_listeners, playlist_catalog_listeners, audit],
        store=SqlAlchemyStore(database.engine(settings.music_discovery_database_url)),
        transport=transport_from(settings, NEST_NAMES),
        bridge=bridge_from(settings, NEST_NAMES),
        start="retained",
        provide={
            UserCatalogUseCases: lambda tx: UserCatalogUseCases(SqlUserCatalogs(tx.session), tx),
            PublicPlaylistUseCases: lambda tx: PublicPlaylistUseCases(SqlPublicPlaylists(tx.session)),
        },
        publishes=[UserFavoritesUpdated],
    )
    app = application(
        SOURCE,
        summary="Users' music catalogs, and the playlists they share",
        lifespan=service.lifespan,
        max_body_bytes=MAX_BODY_BYTES,
        allowed_hosts=hosts_of(settings.music_discovery_allowed_hosts, settings.music_discovery_host),
    )
    app.include_router(user_catalog_http.router)
    app.include_router(playlist_catalog_http.router)
    for error, status in {**user_catalog_http.PROBLEMS, **playlist_catalog_http.PROBLEMS}.items():
        app.add_exception_handler(error, _answer_with(status))
    app.add_exception_handler(BeyondLimitError, user_catalog_http.beyond_limit)
    return service, app


def _answer_with(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(_request: Request, error: Exception) -> Response:
        return problems.problem_response(status, detail=str(error))

    return answer


def main() -> int:
    """Run until a signal. The exit code: 0 drained, 1 crashed, 2 could not start."""
    try:
        settings = load(Settings)
        logs.configure(settings)
        database.migrate(settings.music_discovery_database_url, MIGRATIONS)
        service, app = build(settings)
    except CauceError as error:
        sys.stderr.write(f"{SOURCE}: {error}\n")
        return EXIT_CONFIGURATION
    return run(
        service,
        app=app,
        host=settings.music_discovery_host,
        port=settings.music_discovery_port,
        health_port=settings.music_discovery_health_port,
    )
