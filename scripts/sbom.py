"""`make sbom`: what CloneSpotify is made of, as a CycloneDX 1.6 bill of materials.

    python scripts/sbom.py FILE

Every package of requirements.lock and this repository's own six. `scope` says what each is for: required by a service,
optional (what only the `dev` extra brings: the servers of `cauce dev`), or excluded: tests and tools, which are not
shipped. Licences and dependencies come from the metadata of what is installed, so it runs in the environment of
`make setup`. The same lock in the same environment gives the same bytes: no time, no path, no address of a registry.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Set
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[1]
OWN: Final = ("libs/cauce", "libs/contracts", "libs/seedwork", "apps/accounts", "apps/mailing", "apps/music_discovery")
"""What is shipped. The tests' own package is not."""
SERVICES: Final = ("accounts", "mailing", "music-discovery")
TARGETS: Final = (
    {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux", "platform_system": "Linux"},
    {"python_version": "3.13", "python_full_version": "3.13.0", "sys_platform": "win32", "platform_system": "Windows"},
)
"""A package that is needed on one of them is in: the lock is for all of them, whatever this runs on."""
CLASSIFIERS: Final = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""Those that name one licence of SPDX; `BSD License` does not."""

Pins = Mapping[str, tuple[str, list[str]]]
"""Version and SHA-256 of every file, by canonical name."""


def pins(lock: str) -> Pins:
    found: dict[str, tuple[str, list[str]]] = {}
    for entry in re.split(r"\n(?=\S)", lock):
        if named := re.match(r"([\w.-]+)==([^\s;]+)", entry):
            found[canonicalize_name(named[1])] = (named[2], re.findall(r"sha256:([0-9a-f]{64})", entry))
    return found


def own_projects() -> Mapping[str, Mapping[str, Any]]:
    files = (tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"] for folder in OWN)
    return {canonicalize_name(project["name"]): project for project in files}


# --- who needs whom -----------------------------------------------------------------------------------------

Installed = Mapping[str, Distribution]


def needs(installed: Installed, name: str, extras: Iterable[str]) -> Iterator[tuple[str, Set[str]]]:
    """The packages that this one requires with these extras, and with which extras it requires them."""
    for line in (installed[name].requires or []) if name in installed else []:
        required = Requirement(line)
        if required.marker is None or any(
            required.marker.evaluate({**target, "extra": extra}) for target in TARGETS for extra in ("", *extras)
        ):
            yield canonicalize_name(required.name), required.extras


def closure(installed: Installed, roots: Iterable[tuple[str, Set[str]]]) -> Set[str]:
    """All that these packages need, themselves included."""
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [(name, frozenset(extras)) for name, extras in roots]
    while left:
        if (at := left.pop()) not in seen:
            seen.add(at)
            left += [(name, frozenset(extras)) for name, extras in needs(installed, *at)]
    return {name for name, _ in seen}


# --- the document -------------------------------------------------------------------------------------------


def component(
    name: str, version: str, hashes: Iterable[str], found: Distribution | None, scope: ComponentScope
) -> Component:
    purl = PackageURL(type="pypi", name=name, version=version)
    # Every file the lock accepts. A distribution has an address in CycloneDX; where from is decided by whoever installs.
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        comment="the files that requirements.lock accepts",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in hashes],
    )
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        bom_ref=purl.to_string(),
        purl=purl,
        scope=scope,
        licenses=[] if found is None else licences(found),
        external_references=[files],
    )


def own_component(name: str, project: Mapping[str, Any]) -> Component:
    """Without a package URL: packages of these names in a registry are other people's."""
    return Component(
        type=ComponentType.APPLICATION if name in SERVICES else ComponentType.LIBRARY,
        group="clonespotify",
        name=name,
        version=project["version"],
        bom_ref=f"clonespotify/{name}@{project['version']}",
        description=project["description"],
        scope=ComponentScope.REQUIRED,
        licenses=[LicenseFactory().make_with_id(project["license"])],
    )


def licences(found: Distribution) -> list[DisjunctiveLicense | LicenseExpression]:
    """As its metadata says, by SPDX's names where they can be known."""
    make = LicenseFactory()
    stated = [found.metadata.get("License-Expression"), found.metadata.get("License")]
    for said in filter(None, stated):
        if isinstance(licence := make.make_from_string(said), LicenseExpression) or licence.id:
            return [licence]
    names = {
        line.rpartition(" :: ")[2]
        for line in found.metadata.get_all("Classifier") or []
        if line.startswith("License :: OSI Approved :: ")
    }
    return [make.make_from_string(CLASSIFIERS.get(name, name)) for name in sorted(names)]


def all_components(installed: Installed, own: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Component]:
    """Our own and the locked ones, by name."""
    required = closure(installed, [(name, frozenset()) for name in own])
    optional = closure(installed, [("cauce", frozenset({"all"}))])

    def scope(name: str) -> ComponentScope:
        if name in required:
            return ComponentScope.REQUIRED
        return ComponentScope.OPTIONAL if name in optional else ComponentScope.EXCLUDED

    locked = pins((ROOT / "requirements.lock").read_text())
    return {name: own_component(name, project) for name, project in own.items()} | {
        name: component(name, version, hashes, installed.get(name), scope(name))
        for name, (version, hashes) in locked.items()
    }


def document() -> str:
    installed = {canonicalize_name(found.name): found for found in distributions()}
    own = own_projects()
    components = all_components(installed, own)
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    root = Component(
        type=ComponentType.APPLICATION,
        name=whole["name"],
        version=whole["version"],
        bom_ref=f"{whole['name']}@{whole['version']}",
        description=whole["description"],
    )
    bom = Bom(metadata=BomMetaData(component=root), components=components.values())
    bom.register_dependency(root, [components[name] for name in own])
    for name, one in components.items():
        extras = {"all"} if name == "cauce" else set[str]()
        bom.register_dependency(one, [components[on] for on, _ in needs(installed, name, extras) if on in components])
    return reproducible(JsonV1Dot6(bom).output_as_string())


def reproducible(text: str) -> str:
    """Without the time, and with a number that the content gives instead of a random one."""
    said = json.loads(text)
    del said["metadata"]["timestamp"], said["serialNumber"]
    content = json.dumps(said, sort_keys=True)
    said["serialNumber"] = uuid5(NAMESPACE_URL, content).urn
    return json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document(), encoding="utf-8")
