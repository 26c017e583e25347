"""Every screen at 80 columns, with names of 60 characters: figures stand in their columns, names and commands are whole."""

import re
import shlex
import sys

import pytest
from cauce import IntegrationEvent, Service, on
from cauce.cli.screen import Column, complain, table
from cauce.dev.servers import ValkeyServer
from cauce.ports.lanes import Lane
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from testsupport.shop_and_mail import Command, Project, World

LISTENER = "mail.tell_everybody_who_follows_the_artist_of_a_new_playlist"
ANOTHER = "mail.write_down_what_was_said_of_the_artist_of_a_new_playlist"
EVENT = "shop.a_playlist_was_published_by_an_artist_whom_others_follow"
SERVICE = "a-service-of-which-everybody-in-the-house-knows-the-long-nam"
KEY = "artist/of-whom-everybody-in-the-house-knows/playlists-of-today"


class Published(IntegrationEvent, name=EVENT, version=1, key="id", source="shop-ms"):
    id: str


pytestmark = pytest.mark.parametrize("dialect", ["sqlite"])


def commands(out: str) -> list[list[str]]:
    """What a person can copy: the arguments of every command at the beginning of a line, as a shell takes them."""
    found = re.findall(r"(?m)^ *(?:→ )?(cauce .*)", out.replace("\\\n", ""))
    return [shlex.split(one) for one in found]


def require_readable(out: str, *names: str) -> None:
    """Nothing is broken by the terminal, and no name by us."""
    assert [line for line in out.splitlines() if len(line) > 80] == []
    for name in names:
        assert name in out, f"{name} is broken"


def require_columns(out: str, titles: str, *figures: str) -> None:
    """Each of the figures is in a line of its own and ends where the titles' line has a title that ends."""
    lines = out.splitlines()
    head = next(line for line in lines if line.split()[-len(titles.split()) :] == titles.split())
    ends = {found.end() for found in re.finditer(r"\S+( \S+)*", head)}
    for line in lines[lines.index(head) + 1 :]:
        if not line.strip():
            break
        cells = list(re.finditer(r"\S+( \S+)*", line))
        if len(cells) > 1:
            assert {cell.end() for cell in cells if cell.start() > 2} <= ends, line
    for one in figures:
        assert any(one in line for line in lines)


async def described(project: Project, *, in_code: bool = True) -> None:
    """Two listeners with long names: one fails and is paused, one has dead letters."""

    def hearing(name: str) -> object:
        @on(Published, name=name)
        async def hear(event: Published) -> None: ...

        return hear

    names = (LISTENER, ANOTHER) if in_code else ("mail.index",)
    store = SqlAlchemyStore(create_engine(project.urls["mail"]))
    service = Service(
        "mail-ms",
        modules=[hearing(name) for name in names],
        store=store,
        transport=RedisStreams("redis://localhost:1"),
        start="retained",
    )
    async with project.database("mail") as mail:
        await mail.described(service)
        await mail.handled(LISTENER, 1204)
        await mail.handled(ANOTHER, 3)
        error = f"RuntimeError: {KEY} is not known to the mail server"
        await mail.waiting(
            LISTENER, attempts=1, due_in=90, age=600, key=KEY, name=EVENT, error=error, place="mail.py:12"
        )
        await mail.waiting(LISTENER, age=300, key=KEY, name=EVENT)
        await mail.waiting(ANOTHER, age=300, name=EVENT)
        for number in range(2):
            await mail.dead(ANOTHER, f"{number}f" * 16, name=EVENT, age=60 + number)
        await mail.outgoing(EVENT, age=600)
        await mail.outgoing(EVENT, age=700, key=KEY, problem=f"{EVENT} is larger than the broker takes: 2 MiB")


async def test_status(project: Project, cauce: Command) -> None:
    await described(project)
    said = await cauce("status", "mail")
    require_readable(said.screen, LISTENER, ANOTHER, EVENT)
    require_columns(said.screen, "handled waiting oldest failing next try dead", "1,204")


async def test_dead(project: Project, cauce: Command) -> None:
    await described(project)
    listed = await cauce("dead", "list", "mail")
    require_readable(listed.screen, ANOTHER, EVENT)
    shown = await cauce("dead", "show", "0f0f")
    require_readable(shown.screen, ANOTHER, EVENT)
    assert ["cauce", "dead", "replay", "--listener", ANOTHER, "--name", EVENT] in commands(shown.screen)


async def test_waiting(project: Project, cauce: Command) -> None:
    await described(project)
    listed = await cauce("waiting", "list", "mail")
    require_readable(listed.screen, LISTENER, ANOTHER, EVENT, KEY)
    (first, *_) = (await cauce("waiting", "list", "mail", "--json")).json["mail"]
    require_readable((await cauce("waiting", "show", first["id"])).screen, first["listener"], EVENT)


async def test_waiting_for_listeners_that_are_not_in_the_code(project: Project, cauce: Command) -> None:
    await described(project, in_code=False)
    listed = await cauce("waiting", "list", "mail")
    require_readable(listed.screen, LISTENER, ANOTHER, EVENT)
    moves = [one for one in commands(listed.screen) if "move" in one]
    assert ["cauce", "waiting", "move", "--listener", LISTENER, "--to", "OTHER"] in moves
    discards = [one for one in commands(listed.screen) if "discard" in one]
    assert ["cauce", "waiting", "discard", "--listener", LISTENER, "--because", "…"] in discards


async def test_outbox(project: Project, cauce: Command) -> None:
    await described(project)
    said = await cauce("outbox", "status", "mail")
    require_readable(said.screen, EVENT, KEY)
    require_columns(said.screen, "waiting oldest set aside behind")
    assert ["cauce", "outbox"] in [one[:2] for one in commands(said.screen)]


async def test_doctor(project: Project, cauce: Command) -> None:
    await described(project, in_code=False)
    said = await cauce("doctor", "mail", "--redis-url", "redis://localhost:1")
    require_readable(said.screen, LISTENER, ANOTHER, EVENT)
    assert ["cauce", "waiting", "list", "mail", "--listener", LISTENER] in commands(said.screen)
    assert ["cauce", "dead", "discard", "--service", "mail", "--listener", ANOTHER, "--because", "…"] in commands(
        said.screen
    )


async def test_topic(broker: ValkeyServer, cauce: Command) -> None:
    transport = RedisStreams(broker.url)
    await transport.append(SERVICE, Lane(0), [b"one"])
    await transport.close()
    said = await cauce("topic", "list")
    require_readable(said.screen, SERVICE)


async def test_listener_pause(project: Project, broker: ValkeyServer, cauce: Command) -> None:
    async with project.running(broker.url, World()):
        said = await cauce("listener", "pause", "mail.welcome", "--because", "a bad day")
    assert ["cauce", "listener", "resume", "mail.welcome"] in commands(said.screen)


def test_figures_stay_in_their_columns_however_long_the_names_are(dialect: str) -> None:
    columns = [Column("listener"), *(Column(title, "right") for title in ("handled", "waiting", "dead"))]
    for length in range(1, 79):
        lines = table(columns, [["x" * length, "1,234,567", "8", "–"], ["short", "9", "10", "11"]])
        assert max(map(len, lines)) <= 80
        figures = [line for line in lines if not line.strip().startswith("x") or "–" in line]
        assert {len(line) for line in figures} == {len(figures[0])}
        assert f"  {'x' * length}" in "\n".join(lines)


def test_a_complaint_is_broken_by_us_and_not_by_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dialect: str
) -> None:
    text = (
        "2 problems in the configuration:\n  · mail: none of Cauce's tables are in 127.0.0.1:5432/mail: it has not run "
        "with durable delivery, and lost events leave no trace. → cauce db upgrade mail"
    )
    complain(text)
    assert capsys.readouterr().err == f"{text}\n", "not for a person: in one line, to be searched"

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    complain(text)
    err = capsys.readouterr().err
    require_readable(err, "→ cauce db upgrade mail")
    assert err.splitlines()[2].startswith("    ")
