"""NEST_BRIDGE=on: a real NestJS peer beside the whole system on Streams, two instances of every service of ours."""

import asyncio
from collections.abc import Iterator

import pytest
from cauce.dev.servers import ValkeyServer
from testsupport.long_form import PROVE
from testsupport.nest_peers import NestPeer
from testsupport.waiting import eventually, until
from testsupport.whole_system import SERVICES, LiveSystem, live_system

ARTICLE_NAME = "com.clonespotify.accounts.users.integration.user-updated"
JOHN = {"id": "12345678-1234-1234-1234-123456789abc", "username": "john_doe", "email": "john.doe@example.com"}


@pytest.fixture
def live(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyServer) -> Iterator[LiveSystem]:
    settings = {"EVENTS_TRANSPORT": "redis-streams", "NEST_BRIDGE": "on", "STORE": "sqlite"}
    broker = {"REDIS_HOST": valkey.host, "REDIS_PORT": str(valkey.port), "REDIS_PASS": valkey.password}
    with live_system(tmp_path_factory.mktemp("bridge"), twice=SERVICES, **settings, **broker) as system:
        yield system


def _nothing_pending(live: LiveSystem) -> bool:
    groups = ("accounts-ms", "mailing-ms", "music-discovery-ms")
    return all(live.pending("accounts-ms", group) == 0 for group in groups) and not any(
        live.rows(service, "SELECT 1 FROM cauce_outbox") for service in SERVICES
    )


@pytest.mark.parametrize("nest_process", ["10", "11", "12"] if PROVE else ["11"], indirect=True, ids="nest{}".format)
async def test_a_nestjs_sign_up_is_welcomed_once_and_one_of_ours_is_heard_by_nestjs_once(
    nest: NestPeer, live: LiveSystem
) -> None:
    theirs = {"service": "accounts-ms", "name": ARTICLE_NAME, "payload": JOHN, "id": "r8ScC5wB5NHPWv6wHTLZ59"}

    def in_the_system() -> None:
        eventually(lambda: live.mails(JOHN["email"]))
        eventually(lambda: live.catalog(JOHN["id"]))
        eventually(lambda: _nothing_pending(live))

    for _ in range(2):
        await nest.do("emit", pattern=ARTICLE_NAME, data=theirs)
    await asyncio.to_thread(in_the_system)
    [mail] = live.mails()
    assert mail["message_id"] == "<welcome.r8ScC5wB5NHPWv6wHTLZ59@clonespotify.example>"
    assert (live.catalog(JOHN["id"]) or {})["user"] == {"id": JOHN["id"], "username": "john_doe"}

    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})
    with live.redis() as redis:
        # mailing and music-discovery of ours hear it too, twice each
        await until(lambda: bool(dict(redis.pubsub_numsub(ARTICLE_NAME))[ARTICLE_NAME.encode()] == 5), "NestJS hears")
    answers = [
        await asyncio.to_thread(
            live.sign_up, username=f"ana{number}", password="pa55word!", email=f"ana{number}@example.com"
        )
        for number in range(5)
    ]
    assert [answer.status_code for answer in answers] == [201] * 5
    await nest.hears(5)
    await asyncio.to_thread(eventually, lambda: len(live.mails()) == 1 + 5)
    await asyncio.to_thread(eventually, lambda: _nothing_pending(live))

    assert sorted(call.data["payload"]["username"] for call in nest.heard) == [f"ana{number}" for number in range(5)]
    assert len(live.mails()) == 1 + 5
    assert len({event["id"] for event in live.topic("accounts-ms")}) == 1 + 5


@pytest.mark.parametrize("nest_process", ["11"], indirect=True, ids=["nest11"])  # of the peer, only its ears matter
async def test_replicas_killed_while_nestjs_listens_repeat_at_most_what_was_under_way(
    nest: NestPeer, live: LiveSystem
) -> None:
    await nest.listen({"kind": "message", "pattern": ARTICLE_NAME})

    def sign_up_and_kill() -> set[str]:
        kills = iter(["accounts-2", None, None, "accounts-2", None])
        created: set[str] = set()
        for number in range(25):
            user = {"username": f"user{number}", "password": "pa55word!", "email": f"user{number}@example.com"}
            created.add(live.sign_up(**user).json()["id"])
            if number % 5 == 4 and (victim := next(kills)):
                live.call(live.system.kill(victim))
                live.call(live.system.start(victim))
        eventually(lambda: _nothing_pending(live), within_s=60)
        return created

    created = await asyncio.to_thread(sign_up_and_kill)
    await until(lambda: {call.data["payload"]["id"] for call in nest.heard} == created, "NestJS hears all of them")

    ids = [call.data["id"] for call in nest.heard]
    assert len(set(ids)) == 25
    assert len(ids) - 25 <= 2 * 8, "two kills, eight events under way in each at most"
