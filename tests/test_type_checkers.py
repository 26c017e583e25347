"""What a user sees in the editor: accepted programs are clean, and every rejected one has its error."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testsupport.repository import ROOT

TYPING = Path(__file__).parent / "typing"

REJECTED = {
    "assignment_to_a_frozen_field": ("reportAttributeAccessIssue", 'Attribute "title" is read-only'),
    "domain_event_to_other_services": ("reportArgumentType", '"Played" is not assignable to "IntegrationEvent"'),
    "field_of_another_type": ("reportArgumentType", '"Literal[7]" is not assignable to "str"'),
    "integration_event_to_the_inside": ("reportArgumentType", '"Created" is not assignable to "DomainEvent"'),
    "listener_of_another_event": ("reportCallIssue", "No overloads"),
    "missing_field": ("reportCallIssue", 'Argument missing for parameter "title"'),
    "no_event_at_all": ("reportCallIssue", "No overloads"),
    "pattern_without_its_kind": ("reportArgumentType", 'cannot be assigned to parameter "target"'),
    "positional_field": ("reportCallIssue", "Expected 0 positional arguments"),
    "unknown_class_keyword": ("reportArgumentType", '"Never"'),
    "unknown_when": ("reportArgumentType", "sometimes"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The checker's errors by file; one strict run over all."""
    settings = tmp_path_factory.mktemp("typing") / "pyrightconfig.json"
    settings.write_text(
        json.dumps(
            {
                "include": [str(TYPING)],
                "typeCheckingMode": "strict",
                "pythonVersion": "3.11",
                "extraPaths": [str(ROOT / "libs/cauce/src")],
            }
        )
    )
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "-p",
        str(settings),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    errors: dict[str, list[dict[str, Any]]] = {file.stem: [] for file in TYPING.rglob("*.py")}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        if one["severity"] == "error":
            errors[Path(one["file"]).stem].append(one)
    return errors


def test_what_users_write_is_clean_under_strict_checking(found: dict[str, list[dict[str, Any]]]) -> None:
    assert found["accepted"] == []


def test_every_rejected_program_is_known(found: dict[str, list[dict[str, Any]]]) -> None:
    assert sorted(found) == sorted([*REJECTED, "accepted"])


@pytest.mark.parametrize("program", REJECTED)
def test_a_mistake_is_an_error_in_the_editor(found: dict[str, list[dict[str, Any]]], program: str) -> None:
    rule, words = REJECTED[program]

    assert [one for one in found[program] if one["rule"] == rule and words in one["message"]], found[program]
