"""Every import contract is planted a violation, in a copy of the sources, and must see it."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from testsupport.repository import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]

PLANTED = {
    "cauce: the core imports no driver, no web framework, no SQL": ("cauce/publishing/bus.py", "import sqlalchemy"),
    "cauce: arrows point down, and every folder has its place": (
        "cauce/events/event.py",
        "import cauce.service.service",
    ),
    "no two files or folders import each other, around any number of corners": (
        "cauce/events/immutable.py",
        "import cauce.events.event",
    ),
    "cauce.publishing: arrows point inward": ("cauce/publishing/rules.py", "import cauce.publishing.dispatcher"),
    "cauce.service: arrows point inward": ("cauce/service/wiring.py", "import cauce.service.run"),
    "cauce.delivery: arrows point inward": ("cauce/delivery/lanes/ownership.py", "import cauce.delivery.outbox.relay"),
    "cauce.delivery.inbox: arrows point inward": (
        "cauce/delivery/inbox/ordering.py",
        "import cauce.delivery.inbox.workers",
    ),
    "no product package imports the tests' own package": ("cauce/dev/ports.py", "import testsupport.waiting"),
    "contracts hold nothing but events": ("contracts/accounts.py", "import seedwork.database"),
    "services never import each other": ("mailing/application.py", "import accounts.domain"),
    "cauce and seedwork know no service": ("seedwork/settings.py", "import accounts.domain"),
    "accounts and mailing: arrows point inward": ("accounts/application.py", "import accounts.infrastructure"),
    "accounts and mailing: the domain imports no framework": ("accounts/domain.py", "import pydantic"),
    "mailing: the application knows no event, no driver and no template": (
        "mailing/application.py",
        "import contracts.accounts",
    ),
    "music_discovery: the two modules never import each other": (
        "music_discovery/user_catalog/application.py",
        "import music_discovery.playlist_catalog.domain",
    ),
    "music_discovery: main wires the modules, which share only the domain events": (
        "music_discovery/shared/events.py",
        "import music_discovery.settings",
    ),
    "music_discovery: inside a module, arrows point inward": (
        "music_discovery/user_catalog/domain.py",
        "import music_discovery.user_catalog.infrastructure",
    ),
    "music_discovery: the domain imports no framework, no library and no event": (
        "music_discovery/playlist_catalog/domain.py",
        "import msgspec",
    ),
    "music_discovery: the application imports no driver and no web framework": (
        "music_discovery/playlist_catalog/application.py",
        "import sqlalchemy",
    ),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All packages side by side, so that the copies are what is imported."""
    folder = tmp_path_factory.mktemp("sources")
    for source in [*ROOT.glob("libs/*/src/*"), *ROOT.glob("apps/*/src/*")]:
        if source.is_dir() and not source.name.endswith(".egg-info"):
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> tuple[int, str]:
    program = (
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def test_the_sources_as_they_are_keep_every_contract(sources: Path) -> None:
    code, said = lint(sources)

    assert code == 0, said
    assert f"{len(CONTRACTS)} kept, 0 broken" in said


def test_every_contract_has_its_planted_violation() -> None:
    assert sorted(PLANTED) == sorted(CONTRACTS)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_planted_import_breaks_its_contract(sources: Path, contract: str) -> None:
    file, line = PLANTED[contract]
    path = sources / file
    whole = path.read_text()
    path.write_text(f"{whole}\n\ndef _planted() -> None:\n    {line}\n")
    try:
        code, said = lint(sources)
    finally:
        path.write_text(whole)

    assert code != 0
    assert f"{contract} BROKEN" in said


def test_a_new_folder_has_to_be_given_its_place(sources: Path) -> None:
    new = sources / "cauce" / "somewhere.py"
    new.write_text('"""Nobody has said where this belongs."""\n')
    try:
        code, said = lint(sources)
    finally:
        new.unlink()

    assert code != 0
    assert "cauce: arrows point down, and every folder has its place BROKEN" in said


def test_an_import_for_type_checkers_counts(sources: Path) -> None:
    path = sources / "cauce" / "events" / "event.py"
    whole = path.read_text()
    path.write_text(f"{whole}\n\nif typing.TYPE_CHECKING:\n    from cauce.service.service import Service\n")
    try:
        code, said = lint(sources)
    finally:
        path.write_text(whole)

    assert code != 0
    assert "cauce: arrows point down, and every folder has its place BROKEN" in said
