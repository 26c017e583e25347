"""compose.yaml says the same as `cauce dev` does; what it runs is run here, on the servers of the wheels."""

# redis-py's methods take untyped keyword arguments
# pyright: reportUnknownMemberType=false

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml
from cauce.dev.ports import choose_port
from cauce.dev.servers import PostgresServer, programs
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


def test_the_valkey_of_compose_wants_the_password_and_refuses_to_start_without(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "valkey-server").symlink_to(programs.find_valkey())
    (tmp_path / "docker-entrypoint.sh").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "docker-entrypoint.sh").chmod(0o755)
    command = [word.replace("$$", "$") for word in compose["services"]["redis"]["command"]]
    environment = {"PATH": f"{tmp_path}:{os.defpath}"}

    refused = subprocess.run(
        command, env={**environment, "REDIS_PASS": ""}, cwd=tmp_path, capture_output=True, text=True, timeout=10
    )
    assert refused.returncode == 1
    assert refused.stderr == "REDIS_PASS is empty. Copy .env.example to .env and set it there.\n"

    port = choose_port()
    command[-1] = command[-1].replace("<<END", f"--port {port} --bind 127.0.0.1 <<END")
    with subprocess.Popen(
        command, env={**environment, "REDIS_PASS": "pass word"}, cwd=tmp_path, stdout=subprocess.DEVNULL
    ) as server:
        try:
            with redis.Redis(port=port, password="pass word") as client:
                deadline = time.monotonic() + 10
                while not _answers(client):
                    assert time.monotonic() < deadline
                assert client.config_get("appendonly") == {"appendonly": "yes"}
            shown = " ".join(_arguments(server.pid))
            assert "valkey-server" in shown, "the server itself is asked to stop, not a shell around it"
            assert "pass word" not in shown
        finally:
            server.terminate()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


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
    assert refused.stderr == "MAILING_DB_PASS is empty. Copy .env.example to .env and set it there.\n"
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
