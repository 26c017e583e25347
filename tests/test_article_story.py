"""The article's story over the public doors of the whole system, on real Valkey, PostgreSQL and SMTP."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from testsupport.waiting import eventually
from testsupport.whole_system import LiveSystem, live_system

ARTICLE = {
    "id": "12345678-1234-1234-1234-123456789abc",
    "username": "john_doe",
    "password": "password123",
    "email": "john.doe@example.com",
}
USER_CREATED = "com.clonespotify.accounts.users.integration.user-created"
ARTICLES_NAME = "com.clonespotify.accounts.users.integration.user-updated"


@pytest.fixture(scope="module", params=["redis-streams", "redis-pubsub"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    with live_system(tmp_path_factory.mktemp("story"), EVENTS_TRANSPORT=request.param) as system:
        yield system
        assert system.refusals() == [], "each service has the rights it needs"


def _durable(live: LiveSystem) -> bool:
    return live.environment["EVENTS_TRANSPORT"] == "redis-streams"


def test_the_articles_curl_sent_twice_makes_one_user_one_event_one_mail_and_one_catalog(live: LiveSystem) -> None:
    with live.redis() as redis, redis.pubsub() as pubsub:
        pubsub.psubscribe("com.*")
        pubsub.get_message(timeout=5)

        first = live.sign_up(**ARTICLE)
        again = live.sign_up(**ARTICLE)

        assert (first.status_code, again.status_code) == (201, 409)
        assert first.json() == {key: ARTICLE[key] for key in ("id", "username", "email")}
        eventually(lambda: live.mails(ARTICLE["email"]))
        eventually(lambda: live.catalog(ARTICLE["id"]))
        packet: Any = pubsub.get_message(ignore_subscribe_messages=True, timeout=0.3 if _durable(live) else 5)
        assert pubsub.get_message(ignore_subscribe_messages=True, timeout=0.3) is None

    payload = {key: ARTICLE[key] for key in ("id", "username", "email")}
    if _durable(live):
        assert packet is None, "NestJS's wire is silent unless the bridge is asked for"
        [event] = live.topic("accounts-ms")
        assert (event["type"], event["source"], event["data"]) == (USER_CREATED, "accounts-ms", payload)
    else:
        body = json.loads(packet["data"])
        assert packet["channel"].decode() == body["pattern"] == body["data"]["name"] == ARTICLES_NAME
        assert list(body["data"]) == ["service", "name", "payload", "id", "occurredOn"]
        assert body["data"]["payload"] == payload
    assert len(live.mails(ARTICLE["email"])) == 1
    catalog = live.catalog(ARTICLE["id"])
    assert catalog is not None
    assert catalog["user"] == {"id": ARTICLE["id"], "username": "john_doe"}
    assert catalog["playlists"] == []
    assert catalog["favorites"] == {"songs": [], "artists": [], "albums": []}


def test_the_event_is_in_the_logs_of_all_three_services(live: LiveSystem) -> None:
    created = next(line for line in live.lines("accounts") if f"User created: {ARTICLE['id']}" in line)
    event_id = next(word for word in created.split() if re.fullmatch(r"[0-9a-f-]{36}", word) and word != ARTICLE["id"])

    for service in ("mailing", "music-discovery"):
        heard = [line for line in live.lines(service) if f"Event received: {USER_CREATED} from accounts-ms" in line]
        assert any(event_id in line for line in heard)


def test_a_deleted_and_recreated_user_is_a_new_user_with_a_second_mail_and_one_catalog(live: LiveSystem) -> None:
    user = {
        "id": "87654321-4321-4321-4321-cba987654321",
        "username": "ana",
        "password": "pa55word!",
        "email": "ana@example.com",
    }
    assert live.sign_up(**user).status_code == 201
    first = eventually(lambda: live.catalog(user["id"]))
    eventually(lambda: len(live.mails(user["email"])) == 1)

    assert live.http.delete(f"{live.accounts}/users/{user['id']}").status_code == 204
    eventually(lambda: live.catalog(user["id"]) is None)
    assert live.sign_up(**user).status_code == 201

    second = eventually(lambda: live.catalog(user["id"]))
    eventually(lambda: len(live.mails(user["email"])) == 2)
    assert second["id"] != first["id"]
    assert len({mail["message_id"] for mail in live.mails(user["email"])}) == 2


def test_a_renamed_user_is_renamed_in_the_catalog(live: LiveSystem) -> None:
    user = {
        "id": "11111111-2222-3333-4444-555555555555",
        "username": "eva",
        "password": "pa55word!",
        "email": "eva@example.com",
    }
    live.sign_up(**user)
    eventually(lambda: live.catalog(user["id"]))

    answer = live.http.put(f"{live.accounts}/users/{user['id']}", json={"username": "eva_maria"})

    assert answer.status_code == 200
    eventually(lambda: (live.catalog(user["id"]) or {})["user"]["username"] == "eva_maria")


def test_a_public_playlist_updated_three_times_is_one_entry_and_gone_when_private(live: LiveSystem) -> None:
    user = {
        "id": "22222222-2222-3333-4444-555555555555",
        "username": "paco",
        "password": "pa55word!",
        "email": "paco@example.com",
    }
    live.sign_up(**user)
    catalog = eventually(lambda: live.catalog(user["id"]))

    def put(name: str, *, public: bool) -> int:
        playlist = {"id": "aaaaaaaa-0000-4000-8000-000000000009", "name": name, "isPublic": public, "songs": []}
        body = {"userCatalogId": catalog["id"], "playlist": playlist}
        return live.http.put(f"{live.discovery}/user-catalog/playlists", json=body).status_code

    def public() -> list[str]:
        return [one["name"] for one in live.http.get(f"{live.discovery}/playlists").json()["items"]]

    for name in ("uno", "dos", "tres"):
        assert put(name, public=True) == 200
    assert public() == ["tres"]
    assert put("tres", public=False) == 200
    assert public() == []
