"""The `cauce` command itself: what a newcomer reads, and how long it takes to read it."""

import subprocess
import sys

import pytest
from cauce.cli import main

HEAVY = (
    "aiosmtpd",
    "alembic",
    "asyncio",
    "fastapi",
    "json",
    "msgspec",
    "pathlib",
    "psycopg",
    "pydantic",
    "redis",
    "sqlalchemy",
    "uvicorn",
)


def test_help_lists_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    for expected in (
        "dev       start the project's servers and services, and stay",
        "config    show every effective setting and where it came from",
        "--version",
        "1    something could not be started",
    ):
        assert expected in said


def test_no_command_is_answered_with_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "commands:" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from cauce.cli import main\ntry: main(['dev', '--help'])\nfinally: print(sorted(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    loaded = {name.split(".")[0] for name in eval(said.stdout.splitlines()[-1])}
    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["dve"],
            "cauce: unknown command 'dve'. Did you mean 'dev'? See: cauce --help\n",
        ),
        (
            ["xyz"],
            (
                "cauce: unknown command 'xyz'. Commands: dev, run, config, status, outbox, waiting, dead, listener, tail, topic, explain, "
                "doctor, rewind, erase, db. See: cauce --help\n"
            ),
        ),
        (
            ["--versoin"],
            "cauce: unknown option '--versoin'. Did you mean '--version'? See: cauce --help\n",
        ),
        (
            ["dev", "--onyl-servers"],
            "cauce dev: unknown option '--onyl-servers'. Did you mean '--only-servers'? See: cauce dev --help\n",
        ),
        (
            ["dev", "--only"],
            "cauce dev: unknown option '--only'. Did you mean '--only-servers'? See: cauce dev --help\n",
        ),
    ],
)
def test_a_mistyped_word_is_answered_with_the_nearest_one(
    words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == answer


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("cauce 0.")
