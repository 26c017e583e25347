"""`[tool.cauce.dev]`: every mistake stops the start, with its line and the nearest valid word."""

import shlex
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from cauce.dev.plan import make_plan
from cauce.errors import ConfigurationError
from cauce.settings.project import Project, expand

WHOLE = """\
    [project]
    name = "shop"

    [tool.cauce.dev]
    servers = ["valkey", "postgres", "mail-sink"]
    ready_within_s = 5
    grace_s = 2.5

    [tool.cauce.dev.services.accounts]
    command = "python -m accounts --name 'a b'"
    ready = "http://127.0.0.1:${HEALTH:-9013}/health/ready"
    address = "http://127.0.0.1:3013"
    database = "ACCOUNTS_DATABASE_URL"
    settings = "accounts.settings:Settings"
    env = { LOG_LEVEL = "DEBUG" }

    [tool.cauce.dev.services.mail-ing]
    command = "python -m mailing"
"""


def project_file(folder: Path, text: str) -> Path:
    file = folder / "pyproject.toml"
    file.write_text(dedent(text), encoding="utf-8")
    return file


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        Project.read(project_file(folder, text))
    return list(refused.value.problems)


def test_a_whole_project_is_read_as_written(tmp_path: Path) -> None:
    project = Project.read(project_file(tmp_path, WHOLE))

    assert (project.name, project.root, project.folder) == ("shop", tmp_path, tmp_path / ".cauce")
    assert project.servers == ("valkey", "postgres", "mail-sink")
    assert (project.ready_within_s, project.grace_s) == (5, 2.5)
    accounts, mailing = project.services.values()
    assert accounts.command == ("python", "-m", "accounts", "--name", "a b")
    assert accounts.database == "ACCOUNTS_DATABASE_URL"
    assert accounts.env == {"LOG_LEVEL": "DEBUG"}
    assert (mailing.ready, mailing.database, mailing.database_name) == (None, None, "mail_ing")


def test_the_nearest_project_above_is_found_past_a_pyproject_without_the_table(tmp_path: Path) -> None:
    project_file(tmp_path, WHOLE)
    inner = tmp_path / "apps" / "accounts"
    inner.mkdir(parents=True)
    project_file(inner, '[project]\nname = "accounts"\n')

    assert Project.find(inner).root == tmp_path


def test_a_folder_without_a_project_is_answered_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Project.find(tmp_path)
    said = str(refused.value)
    assert "no pyproject.toml with a [tool.cauce.dev] table, so nothing to start. For example:" in said
    assert 'command = "python hello.py"' in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            """\
            [tool.cauce.dev]
            server = ["valkey"]
            """,
            (
                "pyproject.toml:2: unknown key 'server' in [tool.cauce.dev]. "
                "Valid: bridge_if, grace_s, pubsub_if, ready_within_s, servers, services. Did you mean 'servers'?"
            ),
        ),
        (
            """\
            [tool.cauce.dev]
            # a comment
            servers = ["valky"]
            """,
            "pyproject.toml:3: unknown server 'valky'. Valid: valkey, postgres, mail-sink. Did you mean 'valkey'?",
        ),
        (
            """\
            [tool.cauce.dev]
            servers = "valkey"
            """,
            "pyproject.toml:2: servers = 'valkey': expected a list, as in [\"valkey\"].",
        ),
        (
            """\
            [tool.cauce.dev]
            servers = ["valkey", "valkey"]
            """,
            "pyproject.toml:2: server 'valkey' is there twice.",
        ),
        (
            """\
            [tool.cauce.dev]
            grace_s = "ten"
            """,
            "pyproject.toml:2: grace_s = 'ten': expected a number of seconds above 0.",
        ),
        (
            """\
            [tool.cauce.dev.services.accounts]
            comand = "python -m accounts"
            """,
            (
                "pyproject.toml:2: unknown key 'comand' in [tool.cauce.dev.services.accounts]. "
                "Valid: address, broker, command, database, env, hears, ready, settings, source. Did you mean 'command'?"
            ),
        ),
        (
            """\
            [tool.cauce.dev.services.accounts]
            ready = "http://127.0.0.1:9013/"
            """,
            'pyproject.toml:1: accounts has no command, as in command = "python -m accounts".',
        ),
        (
            """\
            [tool.cauce.dev.services]
            accounts = { command = "python 'x" }
            """,
            'pyproject.toml:2: command = "python \'x": No closing quotation.',
        ),
        (
            """\
            [tool.cauce.dev.services."accounts"]
            command = "x"
            ready = "127.0.0.1:9013"
            """,
            "pyproject.toml:3: ready = '127.0.0.1:9013': expected a URL, as in \"http://127.0.0.1:8000/ready\".",
        ),
        (
            """\
            [tool.cauce.dev.services.music-discovery]
            command = "x"
            database = "postgresql://…"
            """,
            (
                "pyproject.toml:3: database = 'postgresql://…': expected the name of an environment variable, "
                'as in "MUSIC_DISCOVERY_DATABASE_URL".'
            ),
        ),
        (
            """\
            [tool.cauce.dev.services.Accounts]
            command = "x"
            """,
            "pyproject.toml:1: service name 'Accounts': use a-z, 0-9, - and _, beginning with a letter.",
        ),
        (
            """\
            [tool.cauce.dev.services.a]
            command = "x"
            database = "DATABASE_URL"
            [tool.cauce.dev.services.b]
            command = "x"
            database = "DATABASE_URL"
            """,
            "pyproject.toml:6: DATABASE_URL is the database of a already; every service has its own.",
        ),
        (
            """\
            [tool.cauce.dev.services.a]
            command = "x"
            env = { PORT = 8000 }
            """,
            "pyproject.toml:3: env: PORT = 8000: expected a variable and a text in quotes.",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_was_probably_meant(text: str, expected: str, tmp_path: Path) -> None:
    assert problems(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    ("command", "operator"),
    [("a && b", "&&"), ("a | b", "|"), ("a; b", ";"), ("a >log", ">"), ("a 2>&1", ">&"), ("a &", "&"), ("a&&b", "&&")],
)
def test_the_operator_of_a_shell_is_refused_with_the_way_out(command: str, operator: str, tmp_path: Path) -> None:
    (said,) = problems(tmp_path, f'[tool.cauce.dev.services.a]\ncommand = "{command}"\n')

    assert f"pyproject.toml:2: command = {command!r}: no shell reads it, so {operator!r} would be passed on" in said
    assert "sh -c 'first && exec second'" in said


@pytest.mark.parametrize(
    "command", ["sh -c 'a && b'", "a --then='b && c'", "curl http://h/?a=1&b=2", "python -c 'import a; a.b()'"]
)
def test_a_quoted_operator_is_an_argument(command: str, tmp_path: Path) -> None:
    project = Project.read(project_file(tmp_path, f'[tool.cauce.dev.services.a]\ncommand = "{command}"\n'))

    assert project.services["a"].command == tuple(shlex.split(command))


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    said = problems(
        tmp_path,
        """\
        [tool.cauce.dev]
        servers = ["redis", "postgress"]
        [tool.cauce.dev.services.a]
        [tool.cauce.dev.services.b]
        comand = "x"
        """,
    )
    assert [problem.split(":")[1] for problem in said] == ["2", "2", "3", "5"]


def test_text_that_is_no_toml_is_told_with_its_place(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, "[tool.cauce.dev\n")
    assert "pyproject.toml: " in said
    assert "line 1" in said


def test_variables_stand_for_themselves_or_their_default() -> None:
    assert expand("http://h:${PORT:-80}/", {}) == "http://h:80/"
    assert expand("http://h:${PORT:-80}/", {"PORT": ""}) == "http://h:80/"
    assert expand("http://h:${PORT:-80}/${PORT}", {"PORT": "81"}) == "http://h:81/81"
    with pytest.raises(KeyError):
        expand("${PORT}", {})


def test_a_server_named_by_hand_is_used_and_not_started(tmp_path: Path) -> None:
    project = Project.read(project_file(tmp_path, WHOLE))
    plan = make_plan(
        project, {"REDIS_HOST": "elsewhere", "SMTP_PORT": "25", "ACCOUNTS_DATABASE_URL": "sqlite+aiosqlite:///x"}
    )
    assert plan.servers == ()
    assert plan.elsewhere == {
        "valkey": "REDIS_HOST",
        "postgres": "the …_DATABASE_URL variables",
        "mail-sink": "SMTP_PORT",
    }


def test_an_empty_variable_names_nothing(tmp_path: Path) -> None:
    plan = make_plan(Project.read(project_file(tmp_path, WHOLE)), {"REDIS_HOST": "", "ACCOUNTS_DATABASE_URL": ""})
    assert plan.servers == ("valkey", "postgres", "mail-sink")
    assert plan.databases == {"ACCOUNTS_DATABASE_URL": "accounts"}


def test_sqlite_instead_of_postgres_is_one_variable(tmp_path: Path) -> None:
    plan = make_plan(Project.read(project_file(tmp_path, WHOLE)), {"STORE": "sqlite"})
    assert plan.servers == ("valkey", "mail-sink")
    assert (plan.databases, plan.files) == ({}, {"ACCOUNTS_DATABASE_URL": "accounts"})


@pytest.mark.parametrize(
    ("store", "servers", "expected"),
    [
        ("sqllite", '["postgres"]', "STORE=sqllite: not one of postgres, sqlite. Did you mean 'sqlite'?"),
        (
            "postgres",
            '["valkey"]',
            "STORE=postgres, but postgres is not among the servers of [tool.cauce.dev]. Add it there.",
        ),
    ],
)
def test_a_store_that_cannot_be_is_refused(store: str, servers: str, expected: str, tmp_path: Path) -> None:
    project = Project.read(project_file(tmp_path, f"[tool.cauce.dev]\nservers = {servers}\n"))
    with pytest.raises(ConfigurationError) as refused:
        make_plan(project, {"STORE": store})
    assert refused.value.problems == (expected,)


def test_the_projects_table_is_read_without_pydantic() -> None:
    program = (
        "import sys, cauce.settings as settings, cauce.dev.system; settings.project_settings(); "
        "assert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
