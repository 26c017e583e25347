"""What users may rely on: the names, the few dependencies, and a core that pulls in nothing heavy."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import cauce
import pytest

PUBLIC = [
    "Alarms",
    "AtLeastOnce",
    "AtMostOnce",
    "Bus",
    "CauceError",
    "CommitUnknownError",
    "ConcurrentUseError",
    "ConfigurationError",
    "Context",
    "DecodeError",
    "DefinitionError",
    "DomainEvent",
    "DomainEventBus",
    "EffectNotDoneError",
    "Envelope",
    "IntegrationEvent",
    "IntegrationEventBus",
    "Keep",
    "ListenersFailedError",
    "NestBridge",
    "OutboxFullError",
    "Pace",
    "PublishError",
    "Reject",
    "Retry",
    "RetryAfter",
    "Service",
    "Transaction",
    "TransactionAbortedError",
    "TransactionEndedError",
    "TransportUnavailableError",
    "current_envelope",
    "new_id",
    "on",
    "utc_now",
]


def test_the_public_names_are_these() -> None:
    assert sorted(cauce.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_exists_and_says_what_it_promises(name: str) -> None:
    assert getattr(cauce, name).__doc__


def test_a_name_that_does_not_exist_is_told_so() -> None:
    with pytest.raises(AttributeError, match="Servce"):
        _ = cauce.Servce  # type: ignore[attr-defined]  # pyright: ignore


def test_the_core_depends_on_at_most_three_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

    assert len(project["dependencies"]) <= 3


@pytest.mark.parametrize("statement", ["from cauce import *", "import cauce.transports.memory, cauce.testing"])
def test_the_core_imports_no_driver_no_web_framework_and_no_sql(statement: str) -> None:
    heavy = ["sqlalchemy", "redis", "fastapi", "starlette", "uvicorn", "pydantic", "psycopg", "aiosqlite", "httpx"]
    program = f"{statement}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def test_the_library_ships_its_types() -> None:
    assert (Path(cauce.__file__).parent / "py.typed").exists()


def test_who_holds_a_transaction_sees_what_it_is_for_and_nothing_else() -> None:
    assert _public(cauce.Transaction) == ["get", "publish", "savepoint", "session"]


def test_a_service_has_a_lifecycle_and_publishes_and_no_method_for_its_inner_parts() -> None:
    lifecycle = ["check", "crash", "end_within", "idle", "lifespan", "readiness", "running", "stopped", "unfinished"]
    facts = ["accepts", "counters", "database_seen", "hears", "listeners", "publishes"]

    assert _public(cauce.Service) == sorted([*lifecycle, *facts, "observe", "publish", "transaction"])


def _public(cls: type) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


def test_imports_inside_functions_are_where_they_spare_a_start() -> None:
    """Every command is loaded for `cauce --help`; a driver, or SQLAlchemy, is loaded by those who use it."""
    package = Path(cauce.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        if any(isinstance(inner, ast.Import | ast.ImportFrom) for inner in ast.walk(function))
    }

    assert {path for path in found if not path.startswith("cli/")} == {"dev/servers/postgres.py", "fastapi/problems.py"}


def test_help_loads_none_of_what_the_commands_need() -> None:
    heavy = [
        "sqlalchemy",
        "redis",
        "fastapi",
        "uvicorn",
        "pydantic",
        "psycopg",
        "msgspec",
        "cauce.admin",
        "cauce.stores",
    ]
    program = f"""
import contextlib, sys
from cauce.cli import main
with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):
    main(["--help"])
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"
