"""compose.yaml says the same as `cauce dev` does; what it runs is run here, on the servers of the wheels."""

# redis-py's methods take untyped keyword arguments
# pyright: reportUnknownMemberType=false

import os
import re
import subprocess
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
import redis
import yaml
from cauce.dev.plan import make_plan
from cauce.dev.servers import PostgresServer, programs
from cauce.settings.project import Project
from testsupport.compose_broker import command_of_broker, compose_broker, container
from testsupport.repository import ROOT

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def example() -> dict[str, str]:
    """The variables of .env.example, as a shell reads them."""
    said = subprocess.run(
        ["/bin/sh", "-c", "set -a; . ./.env.example; env"],
        cwd=ROOT,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
    )
    variables = dict(line.split("=", 1) for line in said.stdout.splitlines())
    return {name: value for name, value in variables.items() if name not in ("PATH", "PWD", "OLDPWD", "SHLVL", "_")}


def test_both_servers_have_a_health_check_a_network_and_ports_of_this_machine_only(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"redis", "postgres"}
    for service in compose["services"].values():
        assert service["restart"] == "always"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert service["networks"] == ["microservices-architecture"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_file()
    assert "microservices-architecture" in compose["networks"]


def test_every_variable_and_every_secret_comes_from_the_env_file(example: dict[str, str]) -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert asked <= set(example)
    assert {name for name in example if name.endswith(("_PASS", "PASSWORD"))} <= asked
    for line in text.splitlines():
        if re.search(r"PASS\w*: ", line):
            assert re.search(r": \$\{\w+:-\}$", line), line


PASSWORDS = {
    name: f"{name.lower()} word"
    for name in ("REDIS_PASS", "ACCOUNTS_REDIS_PASS", "MAILING_REDIS_PASS", "MUSIC_DISCOVERY_REDIS_PASS")
}


@pytest.fixture(params=["valkey", "redis7"])
def in_container(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    program = request.getfixturevalue("redis7_program") if request.param == "redis7" else programs.find_valkey()
    return container(tmp_path, program)


@pytest.mark.parametrize("missing", PASSWORDS)
def test_the_valkey_of_compose_refuses_to_start_without_a_password(
    in_container: dict[str, str], tmp_path: Path, missing: str
) -> None:
    refused = subprocess.run(
        command_of_broker(),
        env={**in_container, **PASSWORDS, missing: ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert refused.returncode == 1
    assert (
        refused.stderr == f"{missing} is empty. scripts/make-env.sh makes .env with it; in one of your own, add it.\n"
    )


def test_the_valkey_of_compose_has_the_users_of_cauce_dev_with_passwords_that_nobody_sees(
    in_container: dict[str, str], tmp_path: Path
) -> None:
    project = Project.read(ROOT / "pyproject.toml")
    with compose_broker({**in_container, **PASSWORDS}, tmp_path) as (port, pid):
        with redis.Redis(port=port, password=PASSWORDS["REDIS_PASS"], protocol=2, decode_responses=True) as operator:
            assert operator.config_get("appendonly") == {"appendonly": "yes"}
            names = set(cast("list[str]", operator.acl_users()))
            for user in make_plan(project, {}).users.values():
                words = ["on", ">x", "resetchannels", *user.rights.words()]
                operator.execute_command("ACL", "SETUSER", "expected", "reset", *words)
                assert _rights(operator, user.name) == _rights(operator, "expected")
                names.remove(user.name)
            assert names == {"default"}
        for name in ("accounts", "mailing", "music_discovery"):
            password = PASSWORDS[f"{name.upper()}_REDIS_PASS"]
            with redis.Redis(port=port, username=name, password=password, protocol=2) as client:
                assert client.ping()
                with pytest.raises(redis.ResponseError, match=r"(?i)permissions"):
                    client.flushall()
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=port) as nobody:
            nobody.ping()
        shown = " ".join(_arguments(pid))
        assert re.match(r"\S*(valkey|redis)-server ", shown), (
            "the server itself is asked to stop, not a shell around it"
        )
        assert not any(password in shown for password in PASSWORDS.values())


def _rights(operator: "redis.Redis", user: str) -> list[str]:
    """Everything the server knows of a user but the password."""
    lines = cast("list[str]", operator.execute_command("ACL", "LIST"))
    [words] = [line.split() for line in lines if line.split()[1] == user]
    return [
        word for word in words[2:] if not word.startswith("#") and word != "sanitize-payload"
    ]  # which is the default


def test_every_line_of_env_gets_a_password_of_its_own_that_only_its_owner_can_read(tmp_path: Path) -> None:
    script, made = ROOT / "scripts" / "make-env.sh", tmp_path / ".env"
    assert subprocess.run([script, made], timeout=30, check=True).returncode == 0
    lines = dict(re.findall(r"^(\w+_PASS(?:WORD)?)=(.*)$", made.read_text(), re.MULTILINE))
    assert len(lines) == len(set(lines.values())) == 8
    assert all(re.fullmatch("[0-9a-f]{32}", password) for password in lines.values())
    assert made.stat().st_mode & 0o777 == 0o600

    before = made.read_text()
    again = subprocess.run([script, made], capture_output=True, text=True, timeout=30)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert made.read_text() == before


def _arguments(pid: int) -> list[str]:
    import psutil

    return psutil.Process(pid).cmdline()


def test_the_script_of_compose_makes_a_closed_database_for_each_service(
    own_postgres: PostgresServer, example: dict[str, str]
) -> None:
    environment = {
        "PATH": f"{programs.find_postgres()}:{os.defpath}",
        "PGHOST": own_postgres.host,
        "PGPORT": str(own_postgres.port),
        "PGPASSWORD": own_postgres.kept.secret("postgres"),
        **{name: f"{name} it's" for name in example if name.endswith("_DB_PASS")},
    }
    script = str(ROOT / "scripts" / "compose-databases.sh")

    refused = subprocess.run(
        [script], env={**environment, "MAILING_DB_PASS": ""}, capture_output=True, text=True, timeout=30
    )
    assert refused.returncode == 1
    assert (
        refused.stderr
        == "MAILING_DB_PASS is empty. scripts/make-env.sh makes .env with it; in one of your own, add it.\n"
    )
    own_postgres.drop_database("accounts")
    with psycopg.connect(
        host=own_postgres.host, port=own_postgres.port, user="postgres", password=environment["PGPASSWORD"]
    ) as connection:
        connection.execute("DROP ROLE accounts")

    done = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in ("accounts", "mailing", "music_discovery"):
        with psycopg.connect(
            host=own_postgres.host,
            port=own_postgres.port,
            user=name,
            password=f"{name.upper()}_DB_PASS it's",
            dbname=name,
        ) as connection:
            connection.execute("CREATE TABLE mine ()")


def test_docker_accepts_the_file(example: dict[str, str]) -> None:
    try:
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("docker compose is not installed here")
    for variables in ({}, example):
        subprocess.run(
            ["docker", "compose", "config", "--quiet"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **variables},
            check=True,
            timeout=60,
        )
