"""What the command line does with what a stranger wrote: it shows it, and the entries beside it, on every screen."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from cauce.admin.masking import masked_text
from cauce.dev.servers import ValkeyServer
from cauce.events.immutable import secret_looking
from cauce.ports.lanes import Lane
from cauce.transports.redis_streams import RedisStreams
from testsupport.shop_and_mail import Command, Project, Said, cloud_event

WELCOME = "mail.welcome"

HOSTILE = {
    "half a surrogate": rb'{"a":"\ud800"}',
    "half a surrogate in a name": rb'{"\udfff":1}',
    "a number beyond all numbers": b'{"a":1e400}',
    "five thousand digits": b'{"a":' + b"7" * 5_000 + b"}",
    "20 KB of one letter": b'{"a":"' + b"a" * 20_000 + b'"}',
    "C1": '{"a":"\x85\x9b31m"}'.encode(),
    "bidi": '{"a":"\u202e\u2066\u200f\u061c\u2028"}'.encode(),
    "no object": b"7",
}
"""What stands in `data`, by what is wrong with it."""

CONTROLS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def message(data: bytes, number: int = 0) -> bytes:
    return cloud_event(f"e-{number}", data="HERE").replace(b'"HERE"', data)


def is_harmless(said: Said) -> None:
    assert said.code == 0, said.err
    assert not CONTROLS.search(said.out), "the terminal gets what the stranger wrote"


def is_ascii_json(text: str) -> Any:
    assert text.isascii()
    return json.loads(text, parse_constant=pytest.fail)


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_dead_letter_is_shown_and_so_are_the_others(
    project: Project, cauce: Command, data: bytes
) -> None:
    async with project.database("mail") as mail:
        await mail.dead(WELCOME, "a" * 32, message=message(data))
        await mail.waiting(WELCOME, message=message(data))
        await mail.dead(WELCOME, "b" * 32)

    is_harmless(await cauce("dead", "list", "mail"))
    is_harmless(await cauce("dead", "show", "aaaa"))
    listed = is_ascii_json((await cauce("dead", "list", "mail", "--json")).out)
    shown = is_ascii_json((await cauce("dead", "show", "aaaa", "--json", "--raw")).out)
    waiting = is_ascii_json((await cauce("waiting", "list", "mail", "--json")).out)

    assert {one["id"][0] for one in listed["mail"]} == {"a", "b"}
    assert shown["raw_base64"]
    assert len(waiting["mail"]) == 1


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_numbers_that_no_program_holds_are_shown_as_they_were_written(project: Project, cauce: Command) -> None:
    async with project.database("mail") as mail:
        await mail.dead(WELCOME, "a" * 32, message=message(b'{"a":1e400,"b":' + b"7" * 5_000 + b',"c":1.5,"d":12}'))

    payload = (await cauce("dead", "show", "aaaa", "--json")).json["payload"]

    assert payload == {"a": "1e400", "b": "7" * 5_000, "c": 1.5, "d": 12}


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
async def test_tail_shows_a_hostile_event_and_the_next_one(
    project: Project, broker: ValkeyServer, cauce: Command, data: bytes
) -> None:
    await append(broker, message(data), data, cloud_event("fine"))

    for words in ((), ("--full",)):
        is_harmless(await cauce("tail", "--since", "1h", "--no-follow", *words))
    said = await cauce("tail", "--since", "1h", "--no-follow", "--json")

    entries = [is_ascii_json(line) for line in said.out.splitlines()]
    assert said.code == 0
    assert len(entries) == 3
    assert entries[0].get("id", "no event") in ("e-0", "no event")
    assert entries[2]["id"] == "fine"


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_tail_passes_over_a_key_that_holds_no_stream(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    server = redis.Redis(host=broker.host, port=broker.port, password=broker.password)
    server.set("cauce:{shop-ms}:5", "no stream")
    server.lpush("cauce:{spy}:0", "no stream either")
    server.set("cauce:{shop-ms}:groups", "no hash")
    server.close()
    await append(broker, cloud_event("fine"))

    said = await cauce("tail", "--since", "1h", "--no-follow")
    as_json = await cauce("tail", "--since", "1h", "--no-follow", "--json")
    topics = await cauce("topic", "list")

    assert "in shop-ms, lane 5" in said.out
    assert "the key cauce:{shop-ms}:5 holds a string, where a stream belongs" in " ".join(said.out.split())
    assert [(one["topic"], one["lane"], one.get("id")) for one in map(json.loads, as_json.out.splitlines())] == [
        ("shop-ms", 5, None),
        ("spy", 0, None),
        ("shop-ms", 3, "fine"),
    ]
    assert (said.code, as_json.code, topics.code) == (0, 0, 0)


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_tail_shows_an_entry_whose_id_lies_after_the_year_9999(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    server = redis.Redis(host=broker.host, port=broker.port, password=broker.password)
    server.xadd("cauce:{shop-ms}:3", {"e": cloud_event("far")}, id=f"{2**64 - 1}-7")
    server.close()

    said = await cauce("tail", "--since", "1h", "--no-follow", "--json")

    assert [json.loads(line)["entry"] for line in said.out.splitlines()] == [f"{2**64 - 1}-7"]


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_terminal_without_the_characters_gets_them_spelled_out(project: Project) -> None:
    async with project.database("mail") as mail:
        await mail.dead(WELCOME, "a" * 32, data={"name": "Zoë €"})

    said = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", "import sys; from cauce.cli import main; sys.exit(main())", "dead", "show", "aaaa"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert (said.returncode, said.stderr) == (0, b"")
    assert rb'"name": "Zo\xeb \u20ac"' in said.stdout


@pytest.mark.parametrize("text", ["a", '"a', "a ", "a:", "a=", '"', '\\"', 'a="', "A", "a-", "aA", "' '"])
def test_masking_takes_time_in_proportion_to_the_text(text: str) -> None:
    shorter, longer = (text * (size // len(text)) for size in (20_000, 160_000))

    # Eight times the text: a quadratic one takes 64 times as long. A pause of the machine costs no process time.
    for work in (_mask, secret_looking):
        assert min(_cost(work, longer) for _ in range(3)) < 24 * max(0.002, _cost(work, shorter))


def _mask(text: str) -> str:
    return masked_text(text.encode())


def _cost(work: Callable[[str], object], text: str) -> float:
    begun = time.process_time()
    work(text)
    return time.process_time() - begun


def test_a_secret_is_masked_in_what_is_cut_off_as_before() -> None:
    cut_off = b"""password=hunter2 "apiKey" : "k \\" 1", pin: {x} 'token'='t' name: Ann, passwordhint-x=7"""

    assert masked_text(cut_off) == (
        """password=•••• "apiKey" : ••••, pin: {x} 'token'=•••• name: Ann, passwordhint-x=••••"""
    )


async def append(broker: ValkeyServer, *messages: bytes) -> None:
    transport = RedisStreams(broker.url)
    try:
        await transport.append("shop-ms", Lane(3), messages)
    finally:
        await transport.close()
