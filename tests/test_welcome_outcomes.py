"""What the article's welcome gets wrong, on Streams with two replicas of each listener: it always ends, and once.

Numbers like M10 are those of the list of the article's mistakes.
"""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from cauce import Envelope
from cauce.formats.cloudevents import to_json
from cauce.ports.lanes import Lane, lane_of
from cauce.transports.redis.stream_keys import FIELD, StreamKeys
from contracts.accounts import UserCreated, UserUpdated
from testsupport.long_form import PROVE
from testsupport.waiting import eventually
from testsupport.whole_system import WAITING, LiveSystem, live_system

CREATED = "com.clonespotify.accounts.users.integration.user-created"
ARTICLES_NAME = b"com.clonespotify.accounts.users.integration.user-updated"
LISTENERS = ("mailing", "music-discovery")


@pytest.fixture(scope="module", params=["sqlite", "postgres"] if PROVE else ["postgres"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    settings = {"EVENTS_TRANSPORT": "redis-streams"} | ({"STORE": "sqlite"} if request.param == "sqlite" else {})
    with live_system(tmp_path_factory.mktemp("welcome"), twice=LISTENERS, **settings) as system:
        yield system


def somebody(name: str) -> dict[str, str]:
    return {"id": str(uuid4()), "username": name, "password": "pa55word!", "email": f"{name}@example.com"}


def welcomed(live: LiveSystem, user: dict[str, str], *, within_s: float = 15.0) -> None:
    """Waits until everything of the welcome has happened, and then until nothing more can."""
    eventually(lambda: live.mails(user["email"]), within_s=within_s, what=f"the mail of {user['username']}")
    eventually(lambda: live.catalog(user["id"]), within_s=within_s, what=f"the catalog of {user['username']}")
    live.nothing_pending("accounts", *LISTENERS)


def shares(live: LiveSystem, service: str) -> list[int]:
    """How many lanes each replica of the service owns."""
    counted = "SELECT count(*) FROM cauce_lane WHERE member IS NOT NULL GROUP BY member"
    return [lanes for (lanes,) in live.rows(service, counted)]


def put_on_the_topic(live: LiveSystem, message: bytes, lane: Lane) -> None:
    with live.redis() as redis:
        redis.xadd(StreamKeys("cauce").stream("accounts-ms", lane), {FIELD: message})


def events_of(live: LiveSystem, user_id: str) -> list[dict[str, Any]]:
    return [event for event in live.topic("accounts-ms") if event["data"]["id"] == user_id]


def test_m10_two_replicas_of_each_listener_send_one_mail_and_make_one_catalog(live: LiveSystem) -> None:
    # Whoever started first owns every lane for up to two beats: until it sees the other one, and is seen to give back.
    for service in LISTENERS:
        eventually(lambda service=service: shares(live, service) == [8, 8], what=f"the replicas of {service} share")
    users = [somebody(f"replica{number}") for number in range(20)]
    for user in users:
        assert live.sign_up(**user).status_code == 201
    for user in users:
        welcomed(live, user)

    assert [len(live.mails(user["email"])) for user in users] == [1] * 20
    # Both really took part: each owns half of the lanes.
    assert [shares(live, service) for service in LISTENERS] == [[8, 8]] * 2


def test_m11_the_same_request_again_raises_no_second_event(live: LiveSystem) -> None:
    user = somebody("again")

    answers = [
        live.sign_up(**user, key="again-1"),
        live.sign_up(**user, key="again-1"),
        live.sign_up(**user),
    ]
    welcomed(live, user)

    assert [answer.status_code for answer in answers] == [201, 201, 409]
    assert answers[1].json() == answers[0].json()
    assert len(events_of(live, user["id"])) == 1
    assert len(live.mails(user["email"])) == 1


def test_m1_a_durable_event_has_the_canonical_name_and_the_articles_name_is_accepted(live: LiveSystem) -> None:
    user = somebody("canonical")
    live.sign_up(**user)
    welcomed(live, user)
    [event] = events_of(live, user["id"])
    assert event["type"] == CREATED

    known = json.dumps(event).encode().replace(CREATED.encode(), ARTICLES_NAME)
    put_on_the_topic(live, known, lane_of(Envelope.of(UserCreated(id=user["id"], username="", email=""))))
    other = somebody("article")
    envelope = Envelope.of(UserCreated(id=other["id"], username=other["username"], email=other["email"]))
    put_on_the_topic(live, to_json(envelope).replace(CREATED.encode(), ARTICLES_NAME), lane_of(envelope))
    renaming = Envelope.of(UserUpdated(id=other["id"], username="a real update", email=other["email"]))
    put_on_the_topic(live, to_json(renaming), lane_of(renaming))

    welcomed(live, other)
    eventually(lambda: (live.catalog(other["id"]) or {})["user"]["username"] == "a real update")
    assert len(live.mails(user["email"])) == 1, "the same id under two names is one event"
    assert len(live.mails(other["email"])) == 1, "a real update sends no mail"


def test_m23_what_does_not_fit_its_type_is_a_dead_letter_with_its_bytes_and_stops_nobody(live: LiveSystem) -> None:
    envelope = Envelope.of(UserCreated(id="poison", username="x", email="y"))
    poison = to_json(envelope).replace(b'"username":"x"', b'"username":[]')
    put_on_the_topic(live, poison, lane_of(envelope))
    user = somebody("after_poison")
    live.sign_up(**user)

    welcomed(live, user)

    for service in LISTENERS:
        of_poison = f"SELECT reason, error, message FROM cauce_dead_letter WHERE event_id = '{envelope.id}'"
        [(reason, error, message)] = eventually(lambda service=service, ask=of_poison: live.rows(service, ask))
        assert reason == "undecodable"
        assert "username" in error
        assert bytes(message) == poison


def test_m37_renames_and_removals_arrive_in_order(live: LiveSystem) -> None:
    user = somebody("renamed")
    live.sign_up(**user)
    for number in range(10):
        answer = live.http.put(f"{live.accounts}/users/{user['id']}", json={"username": f"renamed_{number}"})
        assert answer.status_code == 200
    welcomed(live, user)
    eventually(lambda: (live.catalog(user["id"]) or {})["user"]["username"] == "renamed_9")

    assert live.http.delete(f"{live.accounts}/users/{user['id']}").status_code == 204
    eventually(lambda: live.catalog(user["id"]) is None)
    assert live.sign_up(**user).status_code == 201
    eventually(lambda: len(live.mails(user["email"])) == 2)
    welcomed(live, user)
    assert (live.catalog(user["id"]) or {})["user"]["username"] == "renamed"
    sequence = [int(event["sequence"]) for event in events_of(live, user["id"])]
    assert sequence == list(range(1, 1 + 10 + 1 + 1 + 1))


def test_m2_killed_between_commit_and_publish_the_sign_up_is_welcomed_later(live: LiveSystem) -> None:
    user = somebody("dual_write")
    live.call(live.system.kill("valkey"))
    assert live.sign_up(**user).status_code == 201
    live.call(live.system.kill("accounts"))
    live.call(live.system.start("valkey"))

    live.call(live.system.start("accounts"))

    welcomed(live, user, within_s=30)
    assert len(live.mails(user["email"])) == 1
    assert len(events_of(live, user["id"])) == 1


def test_m8_m35_a_listener_that_fails_is_tried_again_kills_nobody_and_the_welcome_ends(live: LiveSystem) -> None:
    pids = {name: service.pid for name, service in live.system.services.items()}
    live.call(live.system.kill("mail-sink"))
    users = [somebody(f"patient{number}") for number in range(5)]
    for user in users:
        assert live.sign_up(**user).status_code == 201
    for user in users:
        eventually(lambda user=user: live.catalog(user["id"]))
    eventually(lambda: len(live.rows("mailing", f"{WAITING} AND attempts > 0")) == 5)

    live.call(live.system.start("mail-sink"))

    for user in users:
        welcomed(live, user, within_s=60)
        assert len(live.mails(user["email"])) == 1
    assert {state for (state,) in live.rows("mailing", "SELECT state FROM mails")} == {"sent"}
    assert {name: service.pid for name, service in live.system.services.items()} == pids


def test_m35_every_user_has_a_catalog_and_a_mail_and_the_accounting_adds_up(live: LiveSystem) -> None:
    live.nothing_pending("accounts", *LISTENERS)
    users = {str(user_id) for (user_id,) in live.rows("accounts", "SELECT id FROM users")}
    with_catalog = {str(user_id) for (user_id,) in live.rows("music-discovery", "SELECT user_id FROM user_catalogs")}
    with_mail = {str(user_id) for (user_id,) in live.rows("mailing", "SELECT user_id FROM mails WHERE state = 'sent'")}
    assert users <= with_catalog
    assert users <= with_mail

    [(accepted,)] = live.rows(
        "accounts", "SELECT (SELECT count(*) FROM cauce_outbox) + (SELECT count(*) FROM cauce_sent)"
    )
    [(sent,)] = live.rows("accounts", "SELECT count(*) FROM cauce_sent")
    assert accepted == sent
    ids = {str(event_id) for (event_id,) in live.rows("accounts", "SELECT event_id FROM cauce_sent")}
    for service, consumer in (("mailing", "mailing-ms/mailing.welcome"), ("music-discovery", "%")):
        known = live.rows(service, f"SELECT event_id FROM cauce_inbox WHERE consumer LIKE '{consumer}'")
        heard = ids if service == "music-discovery" else {
            str(event_id)
            for (event_id,) in live.rows("accounts", f"SELECT event_id FROM cauce_sent WHERE name = '{CREATED}'")
        }  # fmt: skip
        assert heard <= {str(event_id) for (event_id,) in known}, f"{service}: every event ended somewhere"
        assert not live.rows(service, "SELECT 1 FROM cauce_inbox WHERE state IS NOT NULL")
