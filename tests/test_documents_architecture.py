"""The architecture page is drawn from the code: its folders, their arrows, its files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from testsupport.documents import check_part, table
from testsupport.repository import ROOT

SOURCE = ROOT / "libs" / "cauce" / "src" / "cauce"
PAGE = ROOT / "docs" / "explanation" / "architecture.md"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("cauce", cache_dir=None)


def test_the_diagram_shows_the_arrows_of_the_code(graph: grimp.ImportGraph) -> None:
    arrows = _without_shortcuts(_arrows(graph))

    check_part(
        PAGE,
        "arrows",
        [
            "```mermaid",
            "flowchart TD",
            *(f"    {one} --> {other}" for one in sorted(arrows) for other in sorted(arrows[one])),
            "```",
        ],
    )


def test_every_folder_says_what_it_is_for_and_may_use(graph: grimp.ImportGraph) -> None:
    arrows = _arrows(graph)

    check_part(
        PAGE,
        "folders",
        table(
            ["folder", "what it is for", "uses"],
            (
                [f"`{name}`", _first_line(_file_of(name)), ", ".join(f"`{one}`" for one in sorted(arrows[name])) or "–"]
                for name in sorted(arrows, key=lambda one: (-_height(arrows, one), one))
            ),
        ),
    )


def test_every_file_has_its_line_on_the_map() -> None:
    check_part(PAGE, "files", _tree())


def test_the_page_names_only_what_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", text) + re.findall(r"`([a-z_]+(?:/[a-z_]+)*/)`", text)
    assert len(named) > 20
    missing = [name for name in {*named} - {"cauce/"} if not (SOURCE / name).exists() and not (ROOT / name).exists()]

    assert not missing


def test_every_folder_of_the_librarys_tests_is_one_of_its_source() -> None:
    tests = ROOT / "libs" / "cauce" / "tests"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("*.py")}

    assert len(folders) > 20
    assert not [str(folder) for folder in folders if not (SOURCE / folder).is_dir()]


def _arrows(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Which folder, or file that is a door, uses which."""
    found: dict[str, set[str]] = {name.split(".")[1]: set() for name in graph.modules if "." in name}
    for module in graph.modules:
        for used in graph.find_modules_directly_imported_by(module):
            if module.count(".") and used.count(".") and module.split(".")[1] != used.split(".")[1]:
                found[module.split(".")[1]].add(used.split(".")[1])
    return found


def _without_shortcuts(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without an arrow that another way leads to as well: a picture with all of them shows nothing."""
    return {
        one: {to for to in used if not any(to in _reached(arrows, other) for other in used if other != to)}
        for one, used in arrows.items()
    }


def _reached(arrows: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [*arrows[start]]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting.extend(arrows[one])
    return found


def _height(arrows: dict[str, set[str]], one: str) -> int:
    return 1 + max((_height(arrows, other) for other in arrows[one]), default=0)


def _file_of(name: str) -> Path:
    folder = SOURCE / name
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{path} has no docstring"
    return docstring.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _tree() -> Iterator[str]:
    """Every file with the first sentence of its docstring, folder by folder."""
    for folder in sorted({path.parent for path in SOURCE.rglob("*.py")}):
        name = folder.relative_to(SOURCE).as_posix()
        yield f"**`{name}/`**: {_first_line(folder / '__init__.py')}" if folder != SOURCE else "**`cauce/`**"
        yield ""
        for path in sorted(folder.glob("*.py")):
            if path.name != "__init__.py":
                yield f"- `{path.relative_to(SOURCE).as_posix()}`: {_first_line(path)}"
        yield ""
