"""What `cauce.settings.load` says, word for word, and what it never says."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from cauce.errors import ConfigurationError
from cauce.settings import Setting, inspect, load
from pydantic import AliasChoices, BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

NOWHERE = Path("/nonexistent")
Port = Annotated[int, Field(ge=1, le=65535)]


class Shop(BaseSettings):
    redis_host: str = Field("localhost", description="the broker's host")
    redis_port: Port = 6379
    redis_pass: SecretStr | None = None
    events_transport: Literal["redis-pubsub", "memory"] = "redis-pubsub"
    shop_database_url: str = "sqlite+aiosqlite:///shop.sqlite"
    verbose: bool = False


def problems_of(
    settings: type[BaseModel] = Shop, environ: dict[str, str] | None = None, folder: Path = NOWHERE
) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load(settings, environ=environ or {}, folder=folder)
    return caught.value.problems


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".cauce").mkdir()
    return tmp_path


def state_file(project: Path, *lines: str) -> None:
    (project / ".cauce" / "dev.env").write_text("\n".join(lines) + "\n")


# --- sources ------------------------------------------------------------------------------------------------


def test_with_nothing_given_every_default_holds(tmp_path: Path) -> None:
    settings = load(Shop, environ={}, folder=tmp_path)
    assert type(settings) is Shop
    assert (settings.redis_host, settings.redis_port, settings.redis_pass) == ("localhost", 6379, None)


def test_the_environment_wins_over_the_state_file_and_that_over_the_default(project: Path) -> None:
    state_file(project, "REDIS_HOST=from-file", "REDIS_PORT=6380")
    settings = load(Shop, environ={"REDIS_HOST": "from-environment"}, folder=project)
    assert (settings.redis_host, settings.redis_port, settings.verbose) == ("from-environment", 6380, False)


def test_the_state_file_is_found_from_a_folder_below_it(project: Path) -> None:
    state_file(project, "REDIS_HOST=above")
    below = project / "apps" / "shop"
    below.mkdir(parents=True)
    assert load(Shop, environ={}, folder=below).redis_host == "above"


def test_cauce_env_file_names_another_file_and_empty_means_none(project: Path) -> None:
    state_file(project, "REDIS_HOST=usual")
    (project / "other.env").write_text("REDIS_HOST=other\n")
    assert load(Shop, environ={"CAUCE_ENV_FILE": "other.env"}, folder=project).redis_host == "other"
    assert load(Shop, environ={"CAUCE_ENV_FILE": ""}, folder=project).redis_host == "localhost"


def test_an_empty_value_counts_as_not_given(project: Path) -> None:
    state_file(project, "REDIS_HOST=from-file", "REDIS_PORT=")
    settings = load(Shop, environ={"REDIS_HOST": "", "REDIS_PASS": ""}, folder=project)
    assert (settings.redis_host, settings.redis_port, settings.redis_pass) == ("from-file", 6379, None)


def test_the_process_environment_is_not_read_behind_the_given_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_HOST", "from-the-process")
    assert load(Shop, environ={}, folder=tmp_path).redis_host == "localhost"
    assert load(Shop, folder=tmp_path).redis_host == "from-the-process"


def test_quotes_comments_and_export_are_understood_in_the_state_file(project: Path) -> None:
    state_file(
        project,
        "# written by hand",
        "",
        "export REDIS_HOST='a host'",
        'REDIS_PASS="p#s=s \' word"   # the password',
        "REDIS_PORT = 6380 # a comment",
    )
    settings = load(Shop, environ={}, folder=project)
    assert settings.redis_host == "a host"
    assert settings.redis_port == 6380
    assert settings.redis_pass is not None
    assert settings.redis_pass.get_secret_value() == "p#s=s ' word"


def test_names_come_from_alias_choices_prefix_or_the_field(tmp_path: Path) -> None:
    class Named(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="SHOP_")
        colour: str = "red"
        port: int = Field(1, validation_alias="SHOP_HTTP_PORT")
        host: str = Field("h", validation_alias=AliasChoices("SHOP_HTTP_HOST", "SHOP_OLD_HOST"))

    settings = load(
        Named, environ={"SHOP_COLOUR": "blue", "SHOP_HTTP_PORT": "2", "SHOP_OLD_HOST": "old"}, folder=tmp_path
    )
    assert (settings.colour, settings.port, settings.host) == ("blue", 2, "old")
    assert isinstance(settings, Named)


def test_a_plain_pydantic_model_can_be_loaded(tmp_path: Path) -> None:
    class Plain(BaseModel):
        colour: str = "red"

    assert load(Plain, environ={"COLOUR": "blue"}, folder=tmp_path) == Plain(colour="blue")


# --- messages -----------------------------------------------------------------------------------------------


def test_everything_wrong_is_reported_together() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(
            Shop,
            environ={"REDIS_HOTS": "x", "REDIS_PORT": "70000", "EVENTS_TRANSPORT": "rediss-pubsub"},
            folder=NOWHERE,
        )
    assert str(caught.value) == (
        "3 problems in the configuration:\n"
        "  · REDIS_HOTS (environment) is not a setting. Did you mean REDIS_HOST? "
        "(If it is another program's: CAUCE_IGNORE_ENV=REDIS_HOTS)\n"
        "  · REDIS_PORT=70000 (environment): must be at most 65535\n"
        "  · EVENTS_TRANSPORT=rediss-pubsub (environment): not one of redis-pubsub, memory. "
        "Did you mean redis-pubsub?"
    )


class Level(Enum):
    LOW = "low"
    HIGH = "high"


class Strict(BaseSettings):
    licence: str = Field(description="the licence number")
    level: Level | None = None
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    label: Annotated[str, Field(min_length=3)] = "abc"
    even: int = 2
    token: str = ""

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value

    @field_validator("token")
    @classmethod
    def _token(cls, value: str) -> str:
        if value:
            raise ValueError(f"cannot use {value}")
        return value

    @model_validator(mode="after")
    def _together(self) -> "Strict":
        if self.label == "bad" and self.even == 4:
            raise ValueError("LABEL=bad needs EVEN other than 4")
        return self


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"LEVEL": "hihg"}, "LEVEL=hihg (environment): not one of low, high. Did you mean high?"),
        ({"LEVEL": "zzz"}, "LEVEL=zzz (environment): not one of low, high."),
        ({"RATIO": "much"}, "RATIO=much (environment): not a number"),
        ({"RATIO": "1"}, "RATIO=1 (environment): must be less than 1"),
        ({"RATIO": "0"}, "RATIO=0 (environment): must be more than 0"),
        ({"LABEL": "ab"}, "LABEL=ab (environment): must have at least 3 characters"),
        ({"EVEN": "3"}, "EVEN=3 (environment): must be even"),
        ({"EVEN": "3.5"}, "EVEN=3.5 (environment): not a whole number"),
        ({"TOKEN": "s3cret"}, "TOKEN=•••• (environment): cannot use ••••"),
        ({"LABEL": "bad", "EVEN": "4"}, "LABEL=bad needs EVEN other than 4"),
    ],
)
def test_a_wrong_value_is_told_with_its_origin_and_what_is_expected(environ: dict[str, str], problem: str) -> None:
    assert problems_of(Strict, {"LICENCE": "1"} | environ) == (problem,)


def test_a_missing_setting_is_told_with_its_meaning() -> None:
    assert problems_of(Strict) == (
        "LICENCE is missing (the licence number): it has no default. Set it in the environment.",
    )


def test_a_port_set_by_kubernetes_is_explained() -> None:
    assert problems_of(environ={"REDIS_PORT": "tcp://10.0.0.7:6379"}) == (
        (
            "REDIS_PORT=tcp://10.0.0.7:6379 (environment): not a whole number. Kubernetes sets such a "
            "variable for a Service of that name: use enableServiceLinks: false"
        ),
    )


def test_a_wrong_value_in_the_state_file_is_told_with_its_line(project: Path) -> None:
    state_file(project, "# the broker", "REDIS_PORT=none", "VERBOSE=perhaps")
    assert problems_of(folder=project) == (
        "REDIS_PORT=none (.cauce/dev.env:2): not a whole number",
        "VERBOSE=perhaps (.cauce/dev.env:3): neither true nor false",
    )


def test_keys_of_the_state_file_that_are_nobodys_are_refused(project: Path) -> None:
    state_file(project, "REDIS_HOTS=x", "COLOUR=blue", "what is this", "REDIS_PORT=1", "REDIS_PORT=2")
    assert problems_of(folder=project) == (
        ".cauce/dev.env:3: not a NAME=value line",
        "REDIS_PORT (.cauce/dev.env:5) is there twice, first in .cauce/dev.env:4. Delete one.",
        "REDIS_HOTS (.cauce/dev.env:1) is not a setting. Did you mean REDIS_HOST?",
        "COLOUR (.cauce/dev.env:2) is not a setting. Delete the line, or see the names in: cauce config",
    )


def test_a_state_file_that_is_named_but_not_there_is_refused(tmp_path: Path) -> None:
    assert problems_of(Shop, {"CAUCE_ENV_FILE": "prod.env"}, tmp_path) == (
        "CAUCE_ENV_FILE=prod.env: no such file. Correct it, or leave CAUCE_ENV_FILE empty for no state file.",
    )
    (tmp_path / "prod.env").write_bytes(b"REDIS_HOST=\xff\n")
    assert problems_of(Shop, {"CAUCE_ENV_FILE": "prod.env"}, tmp_path) == ("prod.env cannot be read: it is not UTF-8",)


# --- misspelt names -----------------------------------------------------------------------------------------


class Wide(Shop):
    music_discovery_host: str = "127.0.0.1"
    music_discovery_port: Port = 3015
    music_discovery_health_port: Port = 9015
    smtp_host: str = "localhost"
    smtp_user: str = ""
    smtp_pass: SecretStr | None = None
    smtp_tls: Literal["off", "starttls", "tls"] = "off"
    mail_from: str = "a@b.example"
    mail_language: Literal["es", "en"] = "es"
    log_format: str = "console"
    log_level: str = "INFO"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("REDIS_HOTS", "REDIS_HOST"),
        ("REDIS_HOSTS", "REDIS_HOST"),
        ("REDISHOST", "REDIS_HOST"),
        ("REDIS_PROT", "REDIS_PORT"),
        ("REDIS_PASSWORD", "REDIS_PASS"),
        ("redis_host", "REDIS_HOST"),
        ("EVENT_TRANSPORT", "EVENTS_TRANSPORT"),
        ("EVENTS_TRASPORT", "EVENTS_TRANSPORT"),
        ("MUSIC_DISCOVER_PORT", "MUSIC_DISCOVERY_PORT"),
        ("MUSICDISCOVERY_PORT", "MUSIC_DISCOVERY_PORT"),
        ("SHOP_DATABASE", "SHOP_DATABASE_URL"),
        ("SMTP_USERNAME", "SMTP_USER"),
        ("SMTP_PASSWORD", "SMTP_PASS"),
        ("MAIL_FORM", "MAIL_FROM"),
        ("MAIL_LANG", "MAIL_LANGUAGE"),
        ("LOG_LEVELS", "LOG_LEVEL"),
        ("CAUCE_IGNORE_ENVS", "CAUCE_IGNORE_ENV"),
    ],
)
def test_a_misspelt_variable_stops_the_start(written: str, meant: str) -> None:
    problems = problems_of(Wide, {written: "x"})
    assert [f"{written} (environment) is not a setting. Did you mean {meant}?" in one for one in problems] == [True]
    load(Wide, environ={written: "x", "CAUCE_IGNORE_ENV": f"OTHER, {written}"}, folder=NOWHERE)


USUAL = """
    PATH HOME LANG LC_ALL TERM SHELL USER LOGNAME PWD OLDPWD HOSTNAME SHLVL TZ TMPDIR EDITOR PAGER MAIL
    DISPLAY PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE DATABASE_URL PORT HOST DEBUG CI GITHUB_TOKEN
    GITHUB_ACTIONS VIRTUAL_ENV PYTHONPATH PYTHONUNBUFFERED PIP_INDEX_URL HTTP_PROXY https_proxy no_proxy
    SSL_CERT_FILE REDIS_PORT_6379_TCP REDIS_PORT_6379_TCP_ADDR REDIS_PORT_6379_TCP_PORT
    REDIS_PORT_6379_TCP_PROTO REDIS_NAME REDIS_SERVICE_HOST REDIS_SERVICE_PORT REDIS_SERVICE_PORT_HTTP
    REDIS_ENV_REDIS_VERSION REDIS_VERSION REDIS_DB REDIS_USER REDIS_TLS REDIS_HOST_REPLICA
    REDIS_PORT_RANGE REDIS_DATA_DIR REDIS_DOWNLOAD_URL MUSIC_DISCOVERY_PORT_3015_TCP
    MUSIC_DISCOVERY_PORT_3015_TCP_ADDR MUSIC_DISCOVERY_SERVICE_PORT MUSIC_DISCOVERY_SERVICE_HOST
    MUSIC_DISCOVERY_SERVICE_PORT_HTTP MUSIC_DISCOVERY_NAME MUSIC_DISCOVERY_TOKEN ACCOUNTS_PORT
    ACCOUNTS_HEALTH_PORT ACCOUNTS_DATABASE_URL MAILING_DATABASE_URL SMTP_SERVER SMTP_FROM MAIL_TO MAILTO
    MAILER_DSN MAIL_DRIVER LOG_FILE LOG_DIR LOG_COLOR AWS_REGION KUBERNETES_SERVICE_HOST
    KUBERNETES_PORT_443_TCP_PROTO DOCKER_HOST COMPOSE_PROJECT_NAME XDG_RUNTIME_DIR SSH_AUTH_SOCK STORE
"""


def test_variables_of_others_are_left_alone() -> None:
    load(Wide, environ=dict.fromkeys(USUAL.split(), "x"), folder=NOWHERE)


# --- secrets ------------------------------------------------------------------------------------------------


class Vault(BaseSettings):
    smtp_pass: Annotated[str, Field(max_length=3)] = ""
    api_token: int = 0
    quiet: SecretStr | None = None
    vault_database_url: str = "sqlite://"

    @field_validator("vault_database_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if not value.startswith(("sqlite", "postgresql+psycopg")):
            raise ValueError("expected sqlite+aiosqlite:///… or postgresql+psycopg://…")
        return value


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"SMTP_PASS": "hunter2"}, "SMTP_PASS=•••• (environment): must have at most 3 characters"),
        ({"API_TOKEN": "hunter2"}, "API_TOKEN=•••• (environment): not a whole number"),
        *(
            (
                {"VAULT_DATABASE_URL": url},
                f"VAULT_DATABASE_URL={shown} (environment): expected sqlite+aiosqlite:///… or postgresql+psycopg://…",
            )
            for url, shown in [
                ("mysql://ana:hunter2@db/x", "mysql://ana:••••@db/x"),
                ("mysql://ana:hun/ter:2@hunter2@db/x", "mysql://ana:••••@db/x"),
                ("mysql:/ana:hunter2@db/x", "mysql:/ana:••••@db/x"),
                ("mysql://:hunter2@db", "mysql://:••••@db"),
                ("mysql://db/x?user=ana&password=hunter2&ssl=1", "mysql://db/x?user=ana&password=••••&ssl=1"),
                ("ana:hunter2@db", "ana:••••@db"),
            ]
        ),
    ],
)
def test_no_secret_is_in_a_message(environ: dict[str, str], problem: str) -> None:
    assert problems_of(Vault, environ) == (problem,)


def test_inspect_shows_values_origins_and_meanings_but_no_secret(project: Path) -> None:
    state_file(
        project,
        "REDIS_PASS=hunter2",
        "SHOP_DATABASE_URL=postgresql+psycopg://shop:hunter2@127.0.0.1:5432/shop",
    )
    shown = inspect(Shop, environ={"VERBOSE": "on"}, folder=project)
    assert shown == (
        Setting(name="REDIS_HOST", value="localhost", origin="default", description="the broker's host"),
        Setting(name="REDIS_PORT", value="6379", origin="default", description=""),
        Setting(name="REDIS_PASS", value="••••", origin=".cauce/dev.env:1", description=""),
        Setting(name="EVENTS_TRANSPORT", value="redis-pubsub", origin="default", description=""),
        Setting(
            name="SHOP_DATABASE_URL",
            value="postgresql+psycopg://shop:••••@127.0.0.1:5432/shop",
            origin=".cauce/dev.env:2",
            description="",
        ),
        Setting(name="VERBOSE", value="true", origin="environment", description=""),
    )
