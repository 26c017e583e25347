"""Schemathesis: whatever the OpenAPI page says, requests made from it find true."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from accounts.main import MIGRATIONS, build
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, openapi
from schemathesis.config import SchemathesisConfig
from seedwork import database

from .conftest import settings_for

_CONFIG: Any = {
    "checks": {
        # What an address is, a schema cannot say: a body that fits it may still be refused.
        "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422"]},
    }
}
_BOUNDED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@pytest.fixture
def api(tmp_path: Path) -> Any:
    url = f"sqlite+aiosqlite:///{tmp_path}/accounts.sqlite"
    database.migrate(url, MIGRATIONS)
    _, app = build(settings_for(url, ACCOUNTS_ALLOWED_HOSTS="*"))
    config = SchemathesisConfig.from_dict(_CONFIG)  # pyright: ignore[reportUnknownMemberType]  # untyped
    return openapi.from_asgi("/openapi.json", app, config=config)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", ["POST /users", "GET /users/{id}", "PUT /users/{id}", "DELETE /users/{id}"])
def test_requests_that_the_schema_allows_or_forbids_are_answered_as_it_says(
    api: Any, operation: str, mode: GenerationMode
) -> None:
    method, path = operation.split()

    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @_BOUNDED
    def check(case: Any) -> None:
        case.call_and_validate()

    check()


def test_chains_of_requests_find_no_contradiction_either(api: Any, tmp_path: Path) -> None:
    class Chains(api.as_state_machine()):
        def setup(self) -> None:
            # Every chain begins with no users: what one left behind would be another's 409.
            with closing(sqlite3.connect(tmp_path / "accounts.sqlite")) as connection, connection:
                for table in ("users", "idempotency_keys"):
                    connection.execute(f"DELETE FROM {table}")

    Chains.run(settings=settings(_BOUNDED, max_examples=15, stateful_step_count=6, phases=[Phase.generate]))
