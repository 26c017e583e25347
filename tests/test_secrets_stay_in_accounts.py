"""A canary: one unique password, looked for everywhere but in accounts' own table of users.

Everywhere: what goes over Pub/Sub (the bridge is on), the durable topics and the broker's own file, every table of all
three databases with outbox, inbox, waiting deliveries and dead letters, the logs at DEBUG, the mails, the answers.
"""

import re
from collections.abc import Iterator

import pytest
from cauce.ports.lanes import Lane
from cauce.transports.redis.stream_keys import FIELD, StreamKeys
from testsupport.long_form import PROVE
from testsupport.waiting import eventually
from testsupport.whole_system import SERVICES, LiveSystem, live_system

CANARY = "cAnary-9f3b-password"


@pytest.fixture(params=["sqlite", "postgres"] if PROVE else ["postgres"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    settings = {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json", "EVENTS_TRANSPORT": "redis-streams", "NEST_BRIDGE": "on"}
    if request.param == "sqlite":
        settings["STORE"] = "sqlite"
    with live_system(tmp_path_factory.mktemp("canary"), **settings) as system:
        yield system


def test_neither_password_nor_hash_is_anywhere_but_in_accounts_own_table(live: LiveSystem) -> None:
    heard: list[str] = []
    user = {"username": "canary", "password": CANARY, "email": "canary@example.com"}
    with live.redis() as redis, redis.pubsub() as pubsub:
        pubsub.psubscribe("*")
        answer = live.sign_up(**user, key="a-key")
        answers = [
            live.sign_up(**user, key="a-key"),
            live.sign_up(**user),
            live.sign_up(**{**user, "username": "x" * 5000}),
            live.sign_up(**{**user, "email": "not an address"}),
            live.http.post(
                f"{live.accounts}/users",
                content=f'{{"password": "{CANARY}", ',
                headers={"Content-Type": "application/json"},
            ),
            live.sign_up(**{**user, "unknown": CANARY}),
        ]
        eventually(lambda: live.mails("canary@example.com"))
        eventually(lambda: live.catalog(answer.json()["id"]))
        _fail_everywhere(live)
        while message := pubsub.get_message(timeout=0.3):
            heard.append(str(message))
    assert [one.status_code for one in (answer, *answers)] == [201, 201, 409, 422, 422, 400, 422]
    assert any("user-updated" in one for one in heard), "the bridge really speaks"

    tables = {service: live.tables(service) for service in SERVICES}
    users = tables["accounts"].pop("users")
    hashes = re.findall(r"\$argon2id\$[^'\"\s]+", users)
    assert hashes, "the hash is where it belongs"
    assert CANARY not in users
    m, t = map(int, re.findall(r"m=(\d+),t=(\d+)", hashes[0])[0])
    assert m >= 19 * 1024
    assert t >= 2

    files = [path for path in (live.system.project.folder / "data" / "valkey").rglob("*") if path.is_file()]
    broker = "\n".join(path.read_bytes().decode(errors="replace") for path in files)
    assert "canary@example.com" in broker, "the broker's file really holds the events"
    assert "canary@example.com" in tables["accounts"]["cauce_sent"], "the outbox really holds them"
    for service in ("mailing", "music-discovery"):
        assert tables[service]["cauce_dead_letter"], "something really died"
    elsewhere = {
        "Pub/Sub": "\n".join(heard),
        "topics": b"\n".join([*live.entries("accounts-ms"), *live.entries("music-discovery-ms")]).decode(),
        "the broker's file": broker,
        **{f"{service}.{table}": rows for service, found in tables.items() for table, rows in found.items()},
        **{f"the log of {service}": "\n".join(live.lines(service)) for service in live.system.services},
        "mails": str(live.mails()),
        "answers": "\n".join(one.text for one in (answer, *answers)),
    }
    for where, text in elsewhere.items():
        assert CANARY not in text, where
        assert not any(secret in text for secret in hashes), where
        assert "$argon2" not in text, where


def _fail_everywhere(live: LiveSystem) -> None:
    """Dead letters in whoever hears accounts-ms, and a mail that has to be tried again."""
    stream = StreamKeys("cauce").stream("accounts-ms", Lane(0))
    with live.redis() as redis:
        redis.xadd(stream, {FIELD: b'{"specversion": "1.0", "half": '})
    for service in ("mailing", "music-discovery"):
        eventually(lambda service=service: live.rows(service, "SELECT 1 FROM cauce_dead_letter"))
    live.call(live.system.kill("mail-sink"))
    refused = {"username": "refused", "password": CANARY, "email": "refused@example.com"}
    assert live.sign_up(**refused).status_code == 201
    eventually(lambda: live.rows("mailing", "SELECT 1 FROM cauce_waiting WHERE error IS NOT NULL"))
    live.call(live.system.start("mail-sink"))
    eventually(lambda: live.mails("refused@example.com"), within_s=30)
