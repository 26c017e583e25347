"""CloneSpotify with a user of its own at the broker for each service: with enough rights for all that it does, and no more."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accounts.main
import accounts.settings
import mailing.main
import mailing.settings
import music_discovery.main
import music_discovery.settings
import pytest
from cauce import Service
from cauce.dev.servers import programs
from cauce.settings import load
from cauce.settings.project import Project, ServiceSpec
from redis.exceptions import ResponseError
from testsupport.compose_broker import compose_broker, container
from testsupport.repository import ROOT
from testsupport.waiting import eventually
from testsupport.whole_system import PORTS, SERVICES, LiveSystem, live_system

ARTICLES_NAME = "com.clonespotify.accounts.users.integration.user-updated"
ANA = {"username": "ana", "password": "pa55word!", "email": "ana@example.com"}
JOHN = {"id": "12345678-1234-1234-1234-123456789abc", "username": "john_doe", "email": "john.doe@example.com"}
TOPICS = ("accounts-ms", "mailing-ms", "music-discovery-ms")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    with live_system(tmp_path_factory.mktemp("rights"), STORE="sqlite") as system:
        yield system


@pytest.fixture
def bridged(tmp_path: Path) -> Iterator[LiveSystem]:
    with live_system(tmp_path, STORE="sqlite", NEST_BRIDGE="on") as system:
        yield system


def _spec(service: str) -> ServiceSpec:
    return Project.read(ROOT / "pyproject.toml").services[service]


def _nothing_under_way(live: LiveSystem) -> bool:
    return not any(live.rows(service, "SELECT 1 FROM cauce_outbox") for service in SERVICES) and not any(
        live.pending("accounts-ms", group) for group in ("mailing-ms", "music-discovery-ms")
    )


def test_a_sign_up_a_favourite_and_an_outage_need_no_more_rights_than_each_service_has(live: LiveSystem) -> None:
    created = live.sign_up(**ANA).json()
    eventually(lambda: live.mails(ANA["email"]))
    eventually(lambda: live.catalog(created["id"]))
    live.call(live.system.kill("valkey"))
    live.call(live.system.start("valkey"))
    live.sign_up(username="eva", password="pa55word!", email="eva@example.com")
    eventually(lambda: live.mails("eva@example.com"))
    eventually(lambda: _nothing_under_way(live))

    assert live.refusals() == []
    for service in SERVICES:
        eventually(lambda service=service: live.not_ready(service) == {})


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_is_taken_over_can_do_what_it_could_and_no_more(live: LiveSystem, service: str) -> None:
    spec = _spec(service)
    with live.redis() as operator, live.user(service) as user:
        for topic in TOPICS:
            operator.xgroup_create(f"cauce:{{{topic}}}:3", f"spy of {service}", mkstream=True)
        forbidden = [
            *(("XADD", f"cauce:{{{topic}}}:3", "*", "e", "forged") for topic in TOPICS if topic != spec.source),
            *(_reading(topic, f"spy of {service}") for topic in TOPICS if topic not in spec.hears),
            *(tuple(words.split()) for words in ("FLUSHALL", "CONFIG GET *", "KEYS *", "EVAL x 0", "ACL LIST", "INFO")),
            ("PUBLISH", ARTICLES_NAME, "{}"),
            ("SUBSCRIBE", ARTICLES_NAME),
        ]
        for command in forbidden:
            with pytest.raises(ResponseError, match=r"(?i)noperm|no permissions"):
                user.execute_command(*command)
        for topic in spec.hears:
            assert user.execute_command(*_reading(topic, f"spy of {service}")) in (None, [], {})
        for topic in TOPICS:
            operator.xgroup_destroy(f"cauce:{{{topic}}}:3", f"spy of {service}")
        operator.acl_log_reset()


def _reading(topic: str, group: str) -> tuple[str, ...]:
    return ("XREADGROUP", "GROUP", group, "x", "COUNT", "1", "STREAMS", f"cauce:{{{topic}}}:3", ">")


def test_the_commands_of_operators_may_do_what_no_service_may(live: LiveSystem) -> None:
    shutil.copy(ROOT / "pyproject.toml", live.system.project.root)
    for words in (["doctor"], ["topic", "list"]):
        environment = {"PATH": os.defpath, **{name: live.environment[name] for name in PORTS}}
        said = subprocess.run(
            [Path(sys.executable).with_name("cauce"), *words],
            cwd=live.system.project.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "NOPERM" not in said.stdout + said.stderr
        assert said.stderr == "", words
        assert said.returncode == 0, (words, said.stdout)
        assert live.system.environment["REDIS_PASS"] not in said.stdout


def test_every_service_has_a_user_and_a_password_of_its_own(live: LiveSystem) -> None:
    logins = {live.system.environment[_spec(service).broker or ""].split("@")[0] for service in SERVICES}
    assert len({login.rpartition(":")[2] for login in logins}) == len(SERVICES)
    assert {login.split("/")[2].split(":")[0] for login in logins} == {"accounts", "mailing", "music_discovery"}
    assert not any(live.system.environment["REDIS_PASS"] in login for login in logins)


def test_with_the_bridge_each_service_has_the_rights_it_needs_in_both_directions(bridged: LiveSystem) -> None:
    packet = {"service": "accounts-ms", "name": ARTICLES_NAME, "payload": JOHN, "id": "r8ScC5wB5NHPWv6wHTLZ59"}
    with bridged.redis() as redis, redis.pubsub() as pubsub:
        pubsub.subscribe(ARTICLES_NAME)
        bridged.sign_up(**ANA)
        told: Any = eventually(lambda: pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1))
        redis.publish(ARTICLES_NAME, json.dumps({"pattern": ARTICLES_NAME, "data": packet}))

        eventually(lambda: bridged.mails(JOHN["email"]))
        eventually(lambda: bridged.catalog(JOHN["id"]))
        eventually(lambda: _nothing_under_way(bridged))

    assert json.loads(told["data"])["data"]["payload"]["username"] == "ana"
    assert bridged.refusals() == []
    with bridged.user("mailing") as mailing:
        for command in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("XADD", "cauce:{music-discovery-ms}:0", "*", "e", "x")):
            with pytest.raises(ResponseError, match=r"(?i)noperm|no permissions"):
                mailing.execute_command(*command)


def test_the_services_work_with_the_users_of_compose_as_the_environment_names_them(tmp_path: Path) -> None:
    names = ("REDIS_PASS", *(f"{_variable(service)}_REDIS_PASS" for service in SERVICES))
    passwords = {name: f"of{name.replace('_', '')}" for name in names}
    environment = {**container(tmp_path, programs.find_valkey()), **passwords}
    with compose_broker(environment, tmp_path) as (port, _):
        urls = {
            f"{_variable(service)}_REDIS_URL": f"redis://{_spec(service).database_name}:{password}@127.0.0.1:{port}"
            for service in SERVICES
            for password in [passwords[f"{_variable(service)}_REDIS_PASS"]]
        }
        broker = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port), "REDIS_PASS": passwords["REDIS_PASS"]}
        with live_system(tmp_path, STORE="sqlite", **broker, **urls) as system:
            assert "valkey" not in system.system.servers
            created = system.sign_up(**ANA).json()
            eventually(lambda: system.mails(ANA["email"]))
            eventually(lambda: system.catalog(created["id"]))
            eventually(lambda: _nothing_under_way(system))
            assert system.refusals() == []
            with system.redis() as operator:
                users = {client["user"] for client in operator.client_list() if client["user"] != "default"}
            assert users == {"accounts", "mailing", "music_discovery"}


def _variable(service: str) -> str:
    return service.upper().replace("-", "_")


def test_the_project_names_the_topics_that_the_services_write_to_and_hear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the default databases are files in the current folder
    for service, wired in _wired().items():
        spec, wiring = _spec(service), wired._wiring
        assert [spec.source] == list(wiring.sends_to), service
        assert set(spec.hears) == set(wiring.subscription.topics), service


def _wired() -> dict[str, Service]:
    environ = {"CAUCE_ENV_FILE": ""}
    return {
        "accounts": accounts.main.build(load(accounts.settings.Settings, environ=environ))[0],
        "mailing": mailing.main.build(load(mailing.settings.Settings, environ=environ)),
        "music-discovery": music_discovery.main.build(load(music_discovery.settings.Settings, environ=environ))[0],
    }
