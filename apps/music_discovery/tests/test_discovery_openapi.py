"""The HTTP interface is what its OpenAPI document says, asked by Schemathesis."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from cauce.settings import load
from hypothesis import HealthCheck, given, settings
from music_discovery.main import MIGRATIONS, build
from music_discovery.settings import Settings
from schemathesis import GenerationMode
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.specs.openapi import checks
from seedwork import database


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder)}/music-discovery.sqlite"
        database.migrate(url, MIGRATIONS)
        environ = {
            "MUSIC_DISCOVERY_DATABASE_URL": url,
            "MUSIC_DISCOVERY_ALLOWED_HOSTS": "*",  # Schemathesis calls it by a name of its own
            "EVENTS_TRANSPORT": "memory",
            "CAUCE_ENV_FILE": "",
        }
        yield build(load(Settings, environ=environ))[1]
        shutdown_lifespans()


_SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
OPERATIONS = [
    ("POST", "/user-catalog"),
    ("GET", "/user-catalog/{id}"),
    ("GET", "/user-catalog/user/{userId}"),
    ("PUT", "/user-catalog/playlists"),
    ("DELETE", "/user-catalog/{id}/playlists/{playlistId}"),
    ("PUT", "/user-catalog/favorites"),
    ("GET", "/playlists"),
    ("GET", "/playlists/{userCatalogId}/{id}"),
]
_BEYOND_A_SCHEMA = {
    ("GET", "/playlists"),  # a made-up cursor is refused
    ("POST", "/user-catalog"),  # what a user name is, no pattern can say
}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_as_described(app: Any, method: str, path: str, mode: GenerationMode) -> None:
    schema: Any = schemathesis.openapi.from_asgi("/openapi.json", app)
    operation = schema[path][method]
    acceptance: Any = checks.positive_data_acceptance  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # partly untyped
    excluded = [acceptance] if (method, path) in _BEYOND_A_SCHEMA else []

    @settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=_SLOW)
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers_as_described(case: Any) -> None:
        case.call_and_validate(excluded_checks=excluded)

    answers_as_described()


def test_the_document_says_what_the_endpoints_do(app: Any) -> None:
    document = app.openapi()

    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == set(OPERATIONS)
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert "application/problem+json" in operation["responses"]["422"]["content"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
