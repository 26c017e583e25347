"""The shared settings, and the transport that is chosen from them."""

from pathlib import Path

import pytest
from cauce import ConfigurationError
from cauce.settings import inspect, load
from cauce.transports.memory import MemoryTransport
from cauce.transports.redis_pubsub import RedisPubSub
from cauce.transports.redis_streams import RedisStreams
from contracts.accounts import NEST_NAMES
from pydantic import Field
from seedwork.settings import (
    BrokerSettings,
    DatabaseUrl,
    LogSettings,
    RedisUrl,
    bridge_from,
    own_broker_url,
    transport_from,
)


class Settings(BrokerSettings, LogSettings):
    shop_database_url: DatabaseUrl = Field("sqlite+aiosqlite:///shop.sqlite")


class OwnUser(BrokerSettings):
    redis_url: RedisUrl | None = own_broker_url("SHOP_REDIS_URL")


def loaded(**environment: str) -> Settings:
    return load(Settings, environ={"CAUCE_ENV_FILE": "", **environment})


def refused(**environment: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        loaded(**environment)
    return str(error.value)


def test_without_any_setting_the_article_s_defaults_hold() -> None:
    settings = loaded()

    assert settings.broker_url == "redis://localhost:6379"
    assert settings.events_transport == "redis-streams"
    assert (settings.log_format, settings.log_level) == ("console", "INFO")
    assert isinstance(transport_from(settings, NEST_NAMES), RedisStreams)


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"REDIS_HOST": "broker", "REDIS_PORT": "6380"}, "redis://broker:6380"),
        ({"REDIS_PASS": "p@ss:/w%rd"}, "redis://:p%40ss%3A%2Fw%25rd@localhost:6379"),
        ({"REDIS_PASS": ""}, "redis://localhost:6379"),
        ({"REDIS_HOST": "::1"}, "redis://[::1]:6379"),
        ({"REDIS_HOST": "x", "REDIS_URL": "rediss://:secret@broker:6390"}, "rediss://:secret@broker:6390"),
    ],
)
def test_the_address_is_made_of_the_article_s_three_or_given_whole(environment: dict[str, str], url: str) -> None:
    assert loaded(**environment).broker_url == url


OWN, SHARED = "redis://shop:pw@localhost:1", "redis://:pw@localhost:2"


@pytest.mark.parametrize(
    ("environment", "file", "url"),
    [
        ({"SHOP_REDIS_URL": OWN, "REDIS_URL": SHARED, "REDIS_HOST": "x"}, "", OWN),
        ({"REDIS_URL": SHARED, "REDIS_HOST": "x"}, "", SHARED),
        ({"SHOP_REDIS_URL": "", "REDIS_URL": SHARED}, "", SHARED),
        ({"REDIS_PORT": "3"}, "", "redis://localhost:3"),
        ({}, f"SHOP_REDIS_URL={OWN}\nREDIS_PORT=3\n", OWN),
        ({"REDIS_URL": SHARED}, f"SHOP_REDIS_URL={OWN}\n", SHARED),
        ({"SHOP_REDIS_URL": OWN}, f"SHOP_REDIS_URL={SHARED}\nREDIS_URL={SHARED}\n", OWN),
    ],
)
def test_a_service_s_own_user_is_taken_first_and_what_is_set_by_hand_before_the_state_file(
    tmp_path: Path, environment: dict[str, str], file: str, url: str
) -> None:
    (tmp_path / "dev.env").write_text(file)
    environ = {**environment, "CAUCE_ENV_FILE": "dev.env"}
    assert load(OwnUser, environ=environ, folder=tmp_path).broker_url == url


@pytest.mark.parametrize("variable", ["SHOP_REDIS_URL", "REDIS_URL"])
def test_what_is_wrong_with_it_is_told_of_the_variable_that_is_set(variable: str) -> None:
    environ = {"CAUCE_ENV_FILE": "", variable: "http://shop:hunter2@broker"}
    with pytest.raises(ConfigurationError) as error:
        load(OwnUser, environ=environ)
    assert str(error.value).splitlines()[1].startswith(f"  · {variable}=http://")
    assert "hunter2" not in str(error.value)

    environ[variable] = "redis://shop:hunter2@broker"
    with pytest.raises(ConfigurationError, match=r"SHOP_REDIS_URL or REDIS_URL would send .* readable to broker"):
        load(OwnUser, environ=environ)
    [shown] = [one for one in inspect(OwnUser, environ={**environ, variable: OWN}) if one.name == "SHOP_REDIS_URL"]
    assert shown.origin == ("environment" if variable == shown.name else "REDIS_URL, environment")
    assert "pw" not in (shown.value or "")


def test_the_articles_transport_can_be_chosen() -> None:
    assert isinstance(transport_from(loaded(EVENTS_TRANSPORT="redis-pubsub"), NEST_NAMES), RedisPubSub)


def test_memory_is_a_transport_too() -> None:
    assert isinstance(transport_from(loaded(EVENTS_TRANSPORT="memory"), {}), MemoryTransport)


@pytest.mark.parametrize("name", ["nats", "rabbitmq"])
def test_a_transport_of_the_future_is_refused_with_not_yet(name: str) -> None:
    said = refused(EVENTS_TRANSPORT=name)

    assert f"EVENTS_TRANSPORT={name}" in said
    assert "not yet" in said
    assert "redis-streams, redis-pubsub" in said


def test_a_misspelt_transport_is_answered_with_the_nearest() -> None:
    assert "Did you mean redis-pubsub?" in refused(EVENTS_TRANSPORT="redis-pubsup")
    assert "not one of redis-streams, redis-pubsub, memory" in refused(EVENTS_TRANSPORT="kafka")


def test_a_bridge_to_nestjs_is_there_only_when_it_is_asked_for() -> None:
    assert bridge_from(loaded(), NEST_NAMES) is None
    assert bridge_from(loaded(NEST_BRIDGE="on", EVENTS_TRANSPORT="redis-streams"), NEST_NAMES) is not None


@pytest.mark.parametrize("transport", ["redis-pubsub", "memory"])
def test_a_bridge_needs_a_durable_transport_on_its_other_side(transport: str) -> None:
    said = refused(NEST_BRIDGE="on", EVENTS_TRANSPORT=transport)

    assert f"NEST_BRIDGE=on joins NestJS to redis-streams, and EVENTS_TRANSPORT is {transport}" in said


def test_a_level_may_be_written_in_any_case() -> None:
    assert loaded(LOG_LEVEL="debug").log_level == "DEBUG"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:hunter2@h/d", "postgresql+psycopg://"),
        ("sqlite:///x.sqlite", "sqlite+aiosqlite:///"),
        ("mysql://u:hunter2@h/d", "expected sqlite+aiosqlite"),
        ("nonsense", "expected sqlite+aiosqlite"),
        ("postgresql+psycopg://u:hunter2@h:port/d", "expected"),
    ],
)
def test_a_database_url_of_the_wrong_kind_is_refused_without_its_password(url: str, said: str) -> None:
    message = refused(SHOP_DATABASE_URL=url)

    assert said in message
    assert "hunter2" not in message


def test_no_password_is_in_the_settings_text() -> None:
    settings = loaded(REDIS_PASS="hunter2", REDIS_URL="rediss://:hunter3@broker:1")

    assert "hunter" not in repr(settings)
    assert "hunter" not in str(settings)


@pytest.mark.parametrize(
    "environment",
    [
        {"REDIS_HOST": "broker", "REDIS_PASS": "hunter2"},
        {"REDIS_HOST": "10.0.0.7", "REDIS_PASS": "hunter2"},
        {"REDIS_URL": "redis://accounts:hunter2@broker:6379"},
        {"REDIS_URL": "redis://:hunter2@localhost.evil.example"},
    ],
)
def test_g5_a_password_is_not_sent_readable_to_another_machine(environment: dict[str, str]) -> None:
    said = refused(**environment)

    assert "readable to" in said
    assert "set REDIS_URL to rediss://" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pw@localhost:1",
        "redis://:pw@127.0.0.9:1",
        "redis://:pw@[::1]:1",
        "rediss://:pw@broker",
        "redis://broker",
    ],
)
def test_it_is_sent_inside_this_machine_and_through_tls(url: str) -> None:
    assert loaded(REDIS_URL=url).broker_url == url


def test_an_address_of_another_kind_is_no_redis_url() -> None:
    said = refused(REDIS_URL="http://user:hunter2@broker")

    assert "redis://" in said
    assert "hunter2" not in said


def test_files_that_the_urls_name_are_looked_at_and_told_together_with_the_rest() -> None:
    said = refused(
        REDIS_URL="rediss://:hunter2@broker:6390?ssl_ca_certs=/gone/ca.pem&ssl_certfile=/gone/me.pem",
        SHOP_DATABASE_URL="postgresql+psycopg://shop:hunter2@db/shop?sslmode=verify-full&sslrootcert=/gone/pg.pem",
        LOG_FORMAT="xml",
    )

    assert "ssl_ca_certs=/gone/ca.pem: no such file; ssl_certfile=/gone/me.pem: no such file" in said
    assert "sslrootcert=/gone/pg.pem: no such file" in said
    assert [line.split("=")[0] for line in said.splitlines()[1:]] == [
        "  · LOG_FORMAT",
        "  · REDIS_URL",
        "  · SHOP_DATABASE_URL",
    ]
    assert "hunter2" not in said
