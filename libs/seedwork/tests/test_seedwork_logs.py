"""Lines of the services and of libraries, in both formats, with secrets kept out."""

import io
import json
import logging
import warnings
from collections.abc import Generator
from typing import Any

import pytest
import structlog
from cauce import Context, DomainEvent, Service, on
from hypothesis import given
from hypothesis import strategies as st
from seedwork import logs
from seedwork.masking import MASK
from seedwork.settings import LogSettings


@pytest.fixture(autouse=True)
def root_logger() -> Generator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configured(**settings: Any) -> io.StringIO:
    out = io.StringIO()
    logs.configure(LogSettings(**settings), out=out)
    return out


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_our_lines_and_the_libraries_look_the_same() -> None:
    out = configured(log_format="json")
    structlog.get_logger("ours").info("one", colour="blue")
    logging.getLogger("theirs").warning("two %s", "things", extra={"colour": "red"})

    ours, theirs = lines(out)
    assert (ours["event"], ours["level"], ours["logger"], ours["colour"]) == ("one", "info", "ours", "blue")
    assert (theirs["event"], theirs["level"], theirs["logger"], theirs["colour"]) == (
        "two things",
        "warning",
        "theirs",
        "red",
    )
    assert set(ours) == set(theirs)


def test_for_people_a_line_is_one_line_without_colours_in_a_file() -> None:
    out = configured()
    structlog.get_logger("ours").info("User created", id="1")

    assert out.getvalue().count("\n") == 1
    assert "User created" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_the_level_is_kept_and_configuring_again_does_not_double_the_lines() -> None:
    configured(log_level="DEBUG")
    out = configured(log_level="WARNING", log_format="json")
    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger(), name)(name)
        getattr(logging.getLogger("theirs"), name)(name)

    assert [line["event"] for line in lines(out)] == ["warning", "warning", "error", "error"]


def test_an_exception_is_shown_whole_but_never_with_local_variables() -> None:
    for log_format in ("console", "json"):
        out = configured(log_format=log_format)
        local_secret = "hunter2"
        try:
            raise ValueError(len(local_secret))
        except ValueError:
            structlog.get_logger().exception("it failed")
        assert "Traceback" in out.getvalue()
        assert "ValueError: 7" in out.getvalue()
        assert "hunter2" not in out.getvalue().replace('local_secret = "hunter2"', "")


SECRETS = {
    "password": "hunter2",
    "redis_pass": "hunter2",
    "PASSWORD": "hunter2",
    "password_hash": "hunter2",
    "api_key": "hunter2",
    "apikey": "hunter2",
    "access_token": "hunter2",
    "client_secret": "hunter2",
    "Authorization": "Bearer hunter2",
    "set_cookie": "hunter2",
    "credentials": ("ana", "hunter2"),
    "body": {"user": {"password": "hunter2"}},
    "many": [{"token": "hunter2"}],
    "url": "postgresql+psycopg://ana:hunter2@db/accounts",
    "encoded": "$argon2id$v=19$m=19456,t=2,p=1$hunter2$hunter2",
    "address": "hunter2@example.com",
    "text": "Key (email)=(hunter2) already exists.",
    "row": 'DETAIL:  Failing row contains (1, hunter2, "x", y).',
    "settings": "Settings(password='hunter2', host='x')",
    "payload": '{"password": "hunter2"}',
}


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_masked_in_fields_texts_and_exceptions(name: str, log_format: str) -> None:
    out = configured(log_format=log_format, log_level="DEBUG")
    structlog.get_logger().info("a field", **{name: SECRETS[name]})
    logging.getLogger("theirs").info("a field", extra={name: SECRETS[name]})
    if name in ("url", "encoded", "address", "text", "row", "settings", "payload"):
        logging.getLogger("theirs").info("in the text: %s", SECRETS[name])
        try:
            raise RuntimeError(SECRETS[name])
        except RuntimeError:
            logging.getLogger("theirs").exception("in an exception")

    assert MASK in out.getvalue()
    assert "hunter2" not in out.getvalue()
    if log_format == "json":
        assert lines(out)


def test_what_is_no_secret_stays_readable() -> None:
    out = configured(log_format="json")
    kept: dict[str, Any] = {
        "passed": 3,
        "compass": "north",
        "hashing_memory_mib": 128,
        "message_id": "<01a20d0a-3d3c-7454-9b3a-ffec847e6d2d@clonespotify.example>",
        "url": "http://127.0.0.1:3013/users",
        "event_name": "com.clonespotify.accounts.users.integration.user-created",
    }
    structlog.get_logger().info("kept", **kept)

    [line] = lines(out)
    assert {name: line[name] for name in kept} == kept


@given(st.text())
def test_a_json_line_is_json_whatever_is_in_it(value: str) -> None:
    out = configured(log_format="json")
    structlog.get_logger().info("%s", value, given=value, password=value)
    logging.getLogger("theirs").info(value.replace("%", "%%"), extra={"given": value})

    text = out.getvalue()
    assert text.count("\n") == 2
    for line in text.split("\n")[:2]:
        json.loads(line)


@pytest.mark.parametrize("name", ["aiosqlite", "sqlalchemy.engine.Engine", "uvicorn.access", "alembic.runtime"])
def test_libraries_that_print_values_or_chatter_stay_quiet_even_at_debug(name: str) -> None:
    out = configured(log_level="DEBUG")
    logging.getLogger(name).debug("INSERT … hunter2")
    logging.getLogger(name).info("GET /users/1")
    logging.getLogger(name).warning("something is wrong")

    assert out.getvalue().count("\n") == 1


async def test_while_an_event_is_handled_its_ids_are_on_every_line() -> None:
    out = configured(log_format="json")

    class Happened(DomainEvent, name="com.clonespotify.test.happened"):
        what: str

    seen: list[Context] = []

    @on(Happened)
    async def listen(event: Happened, context: Context) -> None:
        seen.append(context)
        structlog.get_logger().info("heard")
        logging.getLogger("theirs").info("heard")

    async with Service("test-ms", modules=[listen]) as service:
        await service.publish(Happened(what="x"))
    structlog.get_logger().info("later")

    heard = [line for line in lines(out) if line["event"] == "heard"]
    assert [line["event_id"] for line in heard] == [seen[0].event_id] * 2
    assert all("correlation_id" in line for line in heard)
    assert "event_id" not in lines(out)[-1]


def test_warnings_are_logged_too() -> None:
    out = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old-fashioned", stacklevel=1)

    assert "old-fashioned" in out.getvalue()
