"""Without a broker sign-ups go on. On Streams nothing of it is lost; the article's Pub/Sub says what it lost."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest
from testsupport.long_form import PROVE
from testsupport.waiting import eventually
from testsupport.whole_system import LiveSystem, live_system

SERVICES = ("accounts", "mailing", "music-discovery")
Live = Callable[..., AbstractContextManager[LiveSystem]]


@pytest.fixture
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    @contextmanager
    def start(**settings: str) -> Generator[LiveSystem]:
        with live_system(
            tmp_path_factory.mktemp("broker"), **{"EVENTS_TRANSPORT": "redis-streams", **settings}
        ) as system:
            yield system

    return start


def _user(name: str) -> dict[str, str]:
    return {"username": name, "password": "pa55word!", "email": f"{name}@example.com"}


# --- on Streams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["sqlite", "postgres"] if PROVE else ["postgres"])
def test_on_streams_a_sign_up_during_the_outage_gets_its_mail_and_catalog_afterwards(live: Live, store: str) -> None:
    settings = {"STORE": "sqlite"} if store == "sqlite" else {}
    with live(**settings) as system:
        assert system.sign_up(**_user("before")).status_code == 201
        eventually(lambda: system.mails("before@example.com"))

        system.call(system.system.kill("valkey"))
        for service in SERVICES:
            eventually(lambda service=service: "redis" in system.not_ready(service), within_s=10)
        meanwhile = [system.sign_up(**_user(f"meanwhile{number}")) for number in range(5)]

        assert [answer.status_code for answer in meanwhile] == [201] * 5
        assert all("redis" in system.not_ready(service) for service in SERVICES), "nobody waited for the broker"
        assert not system.mails("meanwhile0@example.com")

        system.call(system.system.start("valkey"))
        for number, answer in enumerate(meanwhile):
            eventually(lambda number=number: system.mails(f"meanwhile{number}@example.com"), within_s=10)
            eventually(lambda answer=answer: system.catalog(answer.json()["id"]), within_s=10)
        for service in SERVICES:
            eventually(lambda service=service: system.ready(service).status_code == 200)
            assert len(system.lines(service)) < 30, "an outage is told in few lines"
        assert all(len(system.mails(f"meanwhile{number}@example.com")) == 1 for number in range(5))
        assert not any("lost" in line for line in system.lines("accounts"))


def test_on_streams_to_a_broker_that_lost_its_disk_all_is_resent_nothing_happens_twice(live: Live) -> None:
    with live(STORE="sqlite") as system:
        first = [system.sign_up(**_user(f"first{number}")) for number in range(10)]
        for answer in first:
            eventually(lambda answer=answer: system.mails(answer.json()["email"]))

        with system.redis() as redis:
            redis.flushall()
        second = [system.sign_up(**_user(f"second{number}")) for number in range(10)]

        for answer in second:
            eventually(lambda answer=answer: system.mails(answer.json()["email"]), within_s=30)
            eventually(lambda answer=answer: system.catalog(answer.json()["id"]), within_s=30)
        for answer in [*first, *second]:
            assert len(system.mails(answer.json()["email"])) == 1


def test_on_streams_what_is_published_while_mailing_is_away_is_mailed_when_it_is_back(live: Live) -> None:
    with live(STORE="sqlite") as system:
        system.call(system.system.stop("mailing"))
        assert system.sign_up(**_user("unheard")).status_code == 201
        eventually(lambda: system.counters("accounts").get("sent") == 1)

        system.call(system.system.start("mailing"))

        eventually(lambda: system.mails("unheard@example.com"))
        assert system.sign_up(**_user("heard")).status_code == 201
        eventually(lambda: system.mails("heard@example.com"))
        assert len(system.mails()) == 2


# --- on the article's Pub/Sub ---------------------------------------------------------------------------------


def test_on_pubsub_sign_ups_are_answered_during_the_outage_and_the_loss_is_logged(
    live: Live,
) -> None:
    with live(STORE="sqlite", EVENTS_TRANSPORT="redis-pubsub") as system:
        assert system.sign_up(**_user("before")).status_code == 201
        eventually(lambda: system.mails("before@example.com"))

        system.call(system.system.kill("valkey"))
        for service in SERVICES:
            eventually(lambda service=service: "redis" in system.not_ready(service))
        meanwhile = system.sign_up(**_user("meanwhile"))

        assert meanwhile.status_code == 201
        eventually(lambda: system.counters("accounts").get("lost") == 1)
        assert any("is lost" in line for line in system.lines("accounts"))

        system.call(system.system.start("valkey"))
        for service in SERVICES:
            eventually(lambda service=service: system.ready(service).status_code == 200)
            assert len(system.lines(service)) < 20, "an outage is told in few lines"
        assert system.sign_up(**_user("after")).status_code == 201
        eventually(lambda: system.mails("after@example.com"))
        lost = system.mails("meanwhile@example.com")
        assert not lost, "at most once: what nobody could carry is lost, as in the article"


def test_on_pubsub_an_event_without_a_listening_process_is_lost(live: Live) -> None:
    with live(STORE="sqlite", EVENTS_TRANSPORT="redis-pubsub") as system:
        system.call(system.system.stop("mailing"))
        assert system.sign_up(**_user("unheard")).status_code == 201
        eventually(lambda: system.counters("accounts").get("sent") == 1)
        system.call(system.system.start("mailing"))

        assert system.sign_up(**_user("heard")).status_code == 201

        eventually(lambda: system.mails("heard@example.com"))
        assert not system.mails("unheard@example.com")
