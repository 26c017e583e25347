"""`cauce explain EVENT`: what the services of a project say of it."""

import re

import pytest
from cauce.delivery.retention import Keep
from testsupport.shop_and_mail import Command, Project

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"])


async def _described(project: Project) -> None:
    async with project.database("mail") as mail:
        await mail.described(project.mail("redis://localhost:1"))
    async with project.database("shop") as shop:
        await shop.described(project.shop("redis://localhost:1"))


async def test_one_screen_about_an_event_between_services(project: Project, cauce: Command) -> None:
    await _described(project)

    said = await cauce("explain", "UserCreated")

    assert said.code == 0
    assert said.err == ""
    assert re.sub(r"shop_and_mail\.py:\d+", "shop_and_mail.py:1", said.out) == (
        "shop.user-created\n"
        "\n"
        "  event      UserCreated, version 2, published by shop-ms\n"
        "  way        COMMIT of shop-ms with a row in cauce_outbox → relay → redis stream\n"
        "             cauce:{shop-ms}:0…15 → inbox + listener + COMMIT → acknowledged\n"
        "  order      per id: what happened to one id is handled in the order of the\n"
        "             commits\n"
        "  kept       after sending, 24 h, 1,000,000 events or 1.0 GiB, whichever comes\n"
        "             first; on the broker 24 h, and until every service has it\n"
        "  acked      when the effect is committed, or a retry, or a dead letter; never\n"
        "             before\n"
        "  repeats    may arrive, after a crash between sending and noting it, or from a\n"
        "             broker that lost something; recognised by the event's id for 7 d,\n"
        "             after that by the number among the events of its id\n"
        "  proven by  the tests that docs/explanation/delivery.md names\n"
        "  formerly   shop.user-added\n"
        "\n"
        "Heard by\n"
        "\n"
        "  mail-ms  mail.welcome  shop_and_mail.py:1\n"
        "    Delivered at least once; what it writes through its session is applied\n"
        "    exactly once.\n"
        "    Fails: tried 2 times, up to 0.01 s apart, then longer, 0.05 s at most; only\n"
        "    its id waits. Then a dead letter, and its id waits for a person.\n"
        "\n"
        "  mail-ms  mail.index  shop_and_mail.py:1\n"
        "    Delivered at least once; what it writes through its session is applied\n"
        "    exactly once.\n"
        "    Fails: tried 2 times, up to 0.01 s apart, then longer, 0.05 s at most; only\n"
        "    its id waits. Then a dead letter, and its id waits for a person.\n"
        "\n"
        "What is lost if\n"
        "  shop-ms dies     nothing: what is committed stands in its outbox, and its next\n"
        "                   process sends it\n"
        "  the broker dies  nothing that was sent in the last 24 h: it is sent again from\n"
        "                   the outbox\n"
        "  a listener dies  nothing: its transaction is undone, and the broker gives it\n"
        "                   the event again\n"
        "  it was away      nothing on the broker before every service has it; if the\n"
        "                   broker forgot as well, what is older than 24 h\n"
    )


async def test_a_window_that_is_shorter_than_promised_is_told_as_it_is(project: Project, cauce: Command) -> None:
    async with project.database("shop") as shop:
        await shop.described(project.shop("redis://localhost:6379", Keep(sent_rows=2)))
        for sent_age in (9000, 7300, 20):
            await shop.outgoing("shop.ticked", age=90, sent_age=sent_age)
        await shop.pruned(rows=2)

    said = await cauce("explain", "shop.ticked")
    as_json = await cauce("explain", "shop.ticked", "--json")

    assert "now    so much is sent that only the last 2 h are kept" in said.out
    assert "nothing that was sent in the last 2 h" in said.out
    assert as_json.json["kept"]["shortened_to_s"] == pytest.approx(7300, abs=60)


async def test_former_names_effects_and_domain_events_are_explained_too(project: Project, cauce: Command) -> None:
    await _described(project)

    former = await cauce("explain", "shop.user-added", "--json")
    effect = await cauce("explain", "shop.ticked")
    domain = await cauce("explain", "mail.welcomed")

    assert former.json["event"]["name"] == "shop.user-created"
    assert [one["name"] for one in former.json["heard_by"]] == ["mail.welcome", "mail.index"]
    assert "An effect outside the database, at least once" in effect.out
    assert "order      none: it has no key" in effect.out
    assert "a domain event, inside its service" in domain.out


async def test_an_unknown_event_is_answered_with_the_nearest_and_with_all(project: Project, cauce: Command) -> None:
    await _described(project)

    said = await cauce("explain", "UserCretaed")

    assert said.code == 2
    assert said.err.startswith("No service knows an event 'UserCretaed'. Did you mean 'UserCreated'? There are:\n")
    assert "  shop.ticked  (Ticked)\n" in said.err


async def test_before_the_first_start_nothing_can_be_explained(project: Project, cauce: Command) -> None:
    async with project.database("mail"), project.database("shop"):
        pass
    said = await cauce("explain", "UserCreated")
    assert said.code == 1
    assert said.err.splitlines()[-1] == "No service has said anything about its events yet: start the project once."
