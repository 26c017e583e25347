"""Today's promise without a broker: sign-ups go on, the loss is said, and everything recovers alone."""

from collections.abc import Iterator

import pytest
from live import LiveSystem, eventually, live_system


@pytest.fixture
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    with live_system(tmp_path_factory.mktemp("broker"), STORE="sqlite") as system:
        yield system


def _user(name: str) -> dict[str, str]:
    return {"username": name, "password": "pa55word!", "email": f"{name}@example.com"}


def test_while_the_broker_is_down_sign_ups_are_answered_and_the_loss_is_said_and_then_all_recover(
    live: LiveSystem,
) -> None:
    assert live.sign_up(**_user("before")).status_code == 201
    eventually(lambda: live.mails("before@example.com"))

    live.call(live.system.kill("valkey"))
    for service in ("accounts", "mailing", "music-discovery"):
        eventually(lambda service=service: "redis" in live.not_ready(service))
    meanwhile = live.sign_up(**_user("meanwhile"))

    assert meanwhile.status_code == 201
    eventually(lambda: live.counters("accounts").get("lost") == 1)
    assert any("is lost" in line for line in live.lines("accounts"))

    live.call(live.system.start("valkey"))
    for service in ("accounts", "mailing", "music-discovery"):
        eventually(lambda service=service: live.ready(service).status_code == 200)
        assert len(live.lines(service)) < 20, "an outage is told in few lines"
    assert live.sign_up(**_user("after")).status_code == 201
    eventually(lambda: live.mails("after@example.com"))
    assert not live.mails("meanwhile@example.com"), "at most once: what nobody could carry is lost, as in the article"


def test_what_nobody_hears_is_lost(live: LiveSystem) -> None:
    live.call(live.system.stop("mailing"))
    assert live.sign_up(**_user("unheard")).status_code == 201
    eventually(lambda: live.counters("accounts").get("sent") == 1)
    live.call(live.system.start("mailing"))

    assert live.sign_up(**_user("heard")).status_code == 201

    eventually(lambda: live.mails("heard@example.com"))
    assert not live.mails("unheard@example.com")
