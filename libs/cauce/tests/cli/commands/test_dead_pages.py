"""`cauce dead list` and `cauce dead show`: what a person reads of a dead letter, and how it is named."""

import base64
import json
from typing import get_args

from cauce.ports.inbox import Reason
from testsupport.shop_and_mail import Command, Project, cloud_event

WELCOME = "mail.welcome"


async def test_those_of_the_same_cause_are_listed_together(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail:
        for number in range(12):
            await mail.dead(WELCOME, f"{number:x}" * 32, age=100 + number)
        await mail.dead(
            "mail.index_of_everything_that_was_ever_said_in_any_of_the_services",
            "c" * 32,
            name="com.example.a.rather.long.name.of.an.event.that.was-renamed-often",
            reason="undecodable",
            error="$.email: expected str, got object",
            attempts=1,
            age=50,
        )
        head = await mail.dead(WELCOME, "d" * 32, key="u-1", error="ValueError: no", age=40, attempts=3)
        await mail.waiting(WELCOME, key="u-1")
        await mail.waiting(WELCOME, key="u-1")
        assert head

    said = await cauce("dead", "list", "mail")

    assert said.code == 0
    assert said.screen == (
        "mail  14 dead letters of 3 causes\n"
        "\n"
        "  shop.user-created → mail.welcome\n"
        "  exhausted after 3 attempts: ValueError: no · mail.py:12 in send\n"
        "    dddddddd  2026-11-24 08:05:41  2 later events of its key waiting\n"
        "\n"
        "  com.example.a.rather.long.name.of.an.event.that.was-renamed-often →\n"
        "  mail.index_of_everything_that_was_ever_said_in_any_of_the_services\n"
        "  undecodable: $.email: expected str, got object · mail.py:12 in send\n"
        "    cccccccc  2026-11-24 08:05:41\n"
        "\n"
        "  shop.user-created → mail.welcome\n"
        "  exhausted after 8 attempts: RuntimeError: smtp said no · mail.py:12 in send\n"
        + "".join(f"    {one * 8}  2026-11-24 08:05:41\n" for one in "0123456789")
        + "    … and 2 more like this: --limit 12\n"
        "\n"
        "  cauce dead show dddddddd\n"
    )
    assert max(map(len, said.out.splitlines())) <= 80


async def test_every_id_in_the_list_is_accepted_by_show(project: Project, cauce: Command) -> None:
    ids = ("1234567890" + "a" * 22, "1234567890" + "b" * 22, "12345678f0" + "b" * 22, "9" * 32)
    async with project.database("mail") as mail:
        for letter_id in ids:
            await mail.dead(WELCOME, letter_id)

    listed = [line.split()[0] for line in (await cauce("dead", "list")).out.splitlines() if line.startswith("    ")]

    assert sorted(listed) == ["1234567890a", "1234567890b", "12345678f", "99999999"]
    for short in listed:
        shown = await cauce("dead", "show", short, "--json")
        assert shown.json["id"].startswith(short)


async def test_a_beginning_that_several_share_is_answered_with_these(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail, project.database("shop") as shop:
        await mail.dead(WELCOME, "12345678" + "a" * 24)
        await shop.dead(WELCOME, "12345679" + "a" * 24)

    several = await cauce("dead", "show", "1234567")
    none = await cauce("dead", "show", "fff")

    assert several.code == 2
    assert several.err == "1234567 begins several: 12345679, 12345678. Write more of it.\n"
    assert none.code == 1
    assert none.err == "No dead letter begins with 'fff'. To see them: cauce dead list\n"
    assert (await cauce("dead", "show", "12345678")).code == 0


async def test_everything_about_one(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail:
        data = {"id": "u-1", "password": "hunter2", "card": {"cvv": "123", "number": "…42"}, "token": None}
        await mail.dead(WELCOME, "3f2a91c0" + "a" * 24, key="u-1", attempts=2, data=data)
        await mail.dead(WELCOME, "87138b15" + "a" * 24, key="u-2", attempts=2)
        await mail.waiting(WELCOME, key="u-1")

    said = await cauce("dead", "show", "3f2a")

    assert said.code == 0
    assert said.screen == (
        "dead letter 3f2a91c0  mail\n"
        "\n"
        "  event     shop.user-created, version 2\n"
        "  event id  xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx\n"
        "  listener  mail.welcome\n"
        "  reason    exhausted: failed 2 times, the last one it was allowed\n"
        "  error     RuntimeError: smtp said no\n"
        "  place     mail.py:12 in send\n"
        "  key       u-1 · 1 later event of this key waiting\n"
        "  from      shop-ms (it does not say its version)\n"
        "  occurred  2026-11-24 08:05:41\n"
        "  came by   cauce:{shop-ms}:0\n"
        "  worker    host:1, version 2.1\n"
        "  cause     2 like this (same listener, event and error)\n"
        "\n"
        "  attempts\n"
        "      1  2026-11-24 08:05:41  RuntimeError: smtp said no\n"
        "      2  2026-11-24 08:05:41  RuntimeError: smtp said no\n"
        "\n"
        "  payload\n"
        "    {\n"
        '      "id": "u-1",\n'
        '      "password": "••••",\n'
        '      "card": {\n'
        '        "cvv": "••••",\n'
        '        "number": "…42"\n'
        "      },\n"
        '      "token": null\n'
        "    }\n"
        "    in a message of 338 bytes: --raw writes it as it came\n"
        "\n"
        "  stack\n"
        '    File "/srv/mail/mail.py", line 12, in send\n'
        "      smtp.send(mail)\n"
        "\n"
        "  cauce dead replay 3f2a91c0\n"
        "  cauce dead replay --listener mail.welcome --name shop.user-created\n"
        "  cauce dead discard 3f2a91c0 --because '…'\n"
    )


async def test_the_version_of_its_producer_is_shown_where_the_event_tells(project: Project, cauce: Command) -> None:
    event = json.loads(cloud_event("1"))
    async with project.database("mail") as mail:
        await mail.dead(
            WELCOME, "3f2a91c0" + "a" * 24, message=json.dumps({**event, "sourceversion": "1.4.2"}).encode()
        )

    said = await cauce("dead", "show", "3f2a")
    as_json = await cauce("dead", "show", "3f2a", "--json")

    assert "from          shop-ms 1.4.2\n" in said.out
    assert as_json.json["source_version"] == "1.4.2"


async def test_what_is_no_event_is_shown_as_it_came_but_for_secrets(project: Project, cauce: Command) -> None:
    message = b'{"data":{"password":"hunter2","name":"Ann\x1b[31m'
    async with project.database("mail") as mail:
        await mail.dead("", "a" * 32, name="?", reason="undecodable", error="$: CloudEvents 1.0 JSON", message=message)

    said = await cauce("dead", "show", "aaaa")
    raw = await cauce("dead", "show", "aaaa", "--json", "--raw")

    assert "  listener  none: it was refused on arrival\n" in said.out
    assert '    {"data":{"password":••••,"name":"Ann\\x1b[31m\n' in said.out
    assert "cauce dead replay" not in said.out, "nobody could be given it"
    assert base64.b64decode(raw.json["raw_base64"]) == message
    assert raw.json["payload"] is None


async def test_the_filters(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail:
        await mail.described(project.mail("redis://localhost:1"))
        await mail.dead(WELCOME, "1" * 32, age=7000)
        await mail.dead("mail.index", "2" * 32, age=100)
        await mail.dead("mail.index", "3" * 32, age=100, reason="rejected", name="shop.ticked")

    async def ids(*filters: str) -> set[str]:
        said = await cauce("dead", "list", "--json", *filters)
        assert said.code == 0, said.err
        return {letter["id"][0] for letter in said.json["mail"]}

    assert await ids("--service", "mail") == {"1", "2", "3"}
    assert await ids("mail", "--listener", "mail.index") == {"2", "3"}
    assert await ids("mail", "--listener", "index") == {"2", "3"}
    assert await ids("mail", "--name", "shop.*") == {"1", "2", "3"}
    assert await ids("mail", "--name", "shop.ticked") == {"3"}
    assert await ids("mail", "--name", "other.**") == set()
    assert await ids("mail", "--reason", "exhausted", "--since", "1h") == {"2"}

    strange = await cauce("dead", "list", "mail", "--listener", "welcom")
    assert strange.code == 2
    assert strange.err.startswith("mail: no listener 'welcom' here. Did you mean 'mail.welcome'? There is mail.count, ")
    for reason in get_args(Reason):
        assert (await cauce("dead", "list", "mail", "--reason", reason)).code == 0
    explained = " ".join((await cauce("dead", "list", "--help")).out.split())
    assert all(reason in explained for reason in get_args(Reason))
    reason = await cauce("dead", "list", "--reason", "exhausting")
    assert reason.code == 2
    assert "Did you mean 'exhausted'?" in reason.err
    since = await cauce("dead", "list", "--since", "yesterday")
    assert since.code == 2
    assert since.err.startswith("--since yesterday: no time. Expected 2026-11-24T08:05")


async def test_json_says_all_of_it(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail:
        event_id = await mail.dead(WELCOME, "3f" * 16, key="u-1", attempts=2, age=0)

    (letter,) = (await cauce("dead", "list", "--json")).json["mail"]

    assert letter.pop("first_at") == letter["last_at"]
    assert letter.pop("last_at").endswith("Z")
    assert letter == {
        "id": "3f" * 16,
        "event": "shop.user-created",
        "event_id": event_id,
        "source": "shop-ms",
        "source_version": None,
        "version": 2,
        "listener": "mail.welcome",
        "consumer": "mail-ms/mail.welcome",
        "reason": "exhausted",
        "error": "RuntimeError: smtp said no",
        "place": "mail.py:12 in send",
        "key": "u-1",
        "state": "dead",
        "behind": 0,
        "attempts": 2,
        "tried": [
            {"at": "2026-11-24T08:05:41.000Z", "error": "RuntimeError: smtp said no"},
            {"at": "2026-11-24T08:06:41.000Z", "error": "RuntimeError: smtp said no"},
        ],
        "worker": "host:1",
        "worker_version": "2.1",
        "channel": "cauce:{shop-ms}:0",
        "bytes": 269,
        "bytes_in_all": 269,
        "payload": {"id": "u-1", "name": "Ann"},
    }
    assert json.dumps(letter)


async def test_no_dead_letters_is_good_news(project: Project, cauce: Command) -> None:
    async with project.database("mail"), project.database("shop"):
        pass
    assert (await cauce("dead", "list")).out == "No dead letters.\n"
    assert (await cauce("dead", "list", "--since", "1h")).out == "No dead letters like that.\n"
