"""The article's story, step by step, through the public doors only: HTTP, the logs, the mail sink, the broker.

It plays on Redis Streams, the default; the article's own Pub/Sub would lose the mail of the last step."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
from cauce.dev.system import DevSystem

from demo.broker import Broker
from demo.curl import curl
from demo.polling import ask_until
from demo.terminal import Terminal

__all__ = ["Story"]

T = TypeVar("T")

USER_ID = "12345678-1234-1234-1234-123456789abc"
USER_CREATED = "com.clonespotify.accounts.users.integration.user-created"
FAVORITES_UPDATED = "com.clonespotify.discovery.user-music-catalog.integration.favorites-updated"
ARTICLES_BODY = """{
  "id": "12345678-1234-1234-1234-123456789abc",
  "username": "john_doe",
  "password": "password123",
  "email": "john.doe@example.com"
}"""
LATECOMER = {"username": "ana", "password": "password456", "email": "ana@example.com"}
EVENTS_OF_ACCOUNTS = 2
"""Two people have signed up, each once."""
PLAYLIST_ID = "aaaaaaaa-0000-4000-8000-000000000001"
LIMIT_S = 10.0


class Story:
    """Every step writes a line of the table; the story continues when one fails, so that the table is whole."""

    def __init__(self, system: DevSystem, terminal: Terminal) -> None:
        self._system = system
        self._terminal = terminal
        self._broker = Broker(system.environment)
        self._accounts = system.services["accounts"].address or ""
        self._discovery = system.services["music-discovery"].address or ""
        self._mails_url = f"{system.environment['CAUCE_MAILS_URL']}/mails"
        self._http = httpx.AsyncClient(timeout=LIMIT_S)

    async def play(self) -> bool:
        async with self._http:
            await self._sign_up()
            await self._heard_in_three_services()
            await self._welcome_mail()
            await self._empty_catalog()
            await self._the_same_again()
            await self._playlist()
            await self._favorites()
            await self._mail_for_who_came_while_mailing_was_away()
        return self._terminal.table()

    async def _sign_up(self) -> None:
        self._terminal.heading("1 · Somebody signs up: the article's curl, as printed")
        url = f"{self._accounts}/users"
        self._terminal.quote(f"curl -X POST -H \"Content-Type: application/json\" -d '{ARTICLES_BODY}' {url}")
        status, body = await curl(url, ARTICLES_BODY, self._http)
        self._terminal.step(f"{status} {body}")
        wanted = {"id": USER_ID, "username": "john_doe", "email": "john.doe@example.com"}
        self._terminal.row(
            "the sign-up is answered 201, without the password", f"{status}", _json(body) == wanted and status == 201
        )

    async def _heard_in_three_services(self) -> None:
        self._terminal.heading("2 · The event in the logs of all three services")
        for service, text in (
            ("accounts", USER_ID),
            ("mailing", f"Event received: {USER_CREATED} from accounts-ms"),
            ("music-discovery", f"Event received: {USER_CREATED} from accounts-ms"),
        ):
            try:
                line = await self._system.line(service, text, within_s=LIMIT_S)
            except TimeoutError as error:
                line = ""
                self._terminal.step(str(error))
            self._terminal.step(f"{service:<16} {line.strip()}")
            self._terminal.row(f"{service}: the event is in the log", "logged" if line else "no such line", bool(line))

    async def _welcome_mail(self) -> None:
        self._terminal.heading("3 · The welcome mail, as the mail server received it")
        mails = await self._until(self._mails, lambda mails: bool(mails))
        for mail in mails:
            for name in ("To", "Subject", "Message-ID"):
                self._terminal.step(f"{name}: {_header(mail, name)}")
            self._terminal.quote(str(mail["text"]).strip())
        recipients = [recipient for mail in mails for recipient in mail["recipients"]]
        self._terminal.row(
            "one welcome mail to john.doe@example.com", f"{recipients}", recipients == ["john.doe@example.com"]
        )

    async def _empty_catalog(self) -> None:
        self._terminal.heading("4 · The empty catalog")
        catalog = await self._until(self._catalog, lambda found: "playlists" in found)
        self._terminal.quote(json.dumps(catalog, ensure_ascii=False))
        empty = catalog.get("playlists") == [] and catalog.get("user", {}).get("username") == "john_doe"
        self._terminal.row("an empty catalog for john_doe", f"{len(catalog.get('playlists', [0]))} playlists", empty)

    async def _the_same_again(self) -> None:
        self._terminal.heading("5 · The same curl again")
        status, body = await curl(f"{self._accounts}/users", ARTICLES_BODY, self._http)
        self._terminal.step(f"{status} {body}")
        mails = await self._mails()
        self._terminal.row(
            "the same sign-up again is answered 409, no second mail",
            f"{status}, {len(mails)} mail",
            (status, len(mails)) == (409, 1),
        )

    async def _playlist(self) -> None:
        self._terminal.heading("6 · A playlist becomes public, is renamed, becomes private")
        catalog_id = (await self._catalog()).get("id")
        for name, public, expected in (
            ("Verano", True, ["Verano"]),
            ("Verano en Madrid", True, ["Verano en Madrid"]),
            ("Verano en Madrid", False, []),
        ):
            songs = [{"id": "bbbbbbbb-0000-4000-8000-000000000001", "title": "Entre dos aguas"}]
            playlist = {"id": PLAYLIST_ID, "name": name, "isPublic": public, "songs": songs}
            await self._http.put(
                f"{self._discovery}/user-catalog/playlists", json={"userCatalogId": catalog_id, "playlist": playlist}
            )
            found = [one["name"] for one in await self._public_playlists()]
            kind = "public" if public else "private"
            self._terminal.step(f"{kind} playlist {name!r} → GET /playlists: {found}")
            self._terminal.row(f"GET /playlists after the {kind} {name!r}", f"{found}", found == expected)

    async def _favorites(self) -> None:
        self._terminal.heading("7 · Favorites: a domain event inside, an integration event outside")
        body = {
            "userId": USER_ID,
            "favorites": {"songs": ["Entre dos aguas"], "artists": ["Paco de Lucía"], "albums": []},
        }
        await self._http.put(f"{self._discovery}/user-catalog/favorites", json=body)
        kept = await self._until(lambda: self._broker.events("music-discovery-ms"), bool)
        self._terminal.step("what the durable topic of music-discovery-ms holds for whoever wants to hear it:")
        for one in kept or ["nothing"]:
            self._terminal.quote(one)
        event: dict[str, Any] = _json(kept[0]) if kept else {}
        data: dict[str, Any] = event.get("data", {})
        ok = (len(kept), event.get("type"), data.get("userId")) == (1, FAVORITES_UPDATED, USER_ID)
        self._terminal.row("the favorites reach other services", str(event.get("type", "nothing")), ok)

    async def _mail_for_who_came_while_mailing_was_away(self) -> None:
        self._terminal.heading("8 · mailing-ms is stopped, somebody signs up, mailing-ms comes back")
        await self._system.stop("mailing")
        self._terminal.step("mailing-ms is stopped")
        answer = await self._http.post(f"{self._accounts}/users", json=LATECOMER)
        self._terminal.step(f"POST /users → {answer.status_code} {answer.text}")
        # Really on the broker before mailing-ms is back, and really without it.
        await self._until(lambda: self._broker.events("accounts-ms"), lambda kept: len(kept) == EVENTS_OF_ACCOUNTS)
        before = len(await self._mails_to(LATECOMER["email"]))
        self._terminal.step(f"mails to {LATECOMER['email']} so far: {before}")
        await self._system.start("mailing")
        self._terminal.step("mailing-ms is back")
        mails = await self._until(lambda: self._mails_to(LATECOMER["email"]), bool)
        for mail in mails:
            self._terminal.step(f"To: {_header(mail, 'To')} · Message-ID: {_header(mail, 'Message-ID')}")
        self._terminal.row(
            "who signed up while mailing-ms was stopped has a mail when it is back",
            f"{answer.status_code}, {before} mails before, {len(mails)} after",
            (answer.status_code, before, len(mails)) == (201, 0, 1),
        )

    async def _mails_to(self, recipient: str) -> list[dict[str, Any]]:
        return [mail for mail in await self._mails() if mail["recipients"] == [recipient]]

    async def _mails(self) -> list[dict[str, Any]]:
        return (await self._http.get(self._mails_url)).json()

    async def _catalog(self) -> dict[str, Any]:
        return (await self._http.get(f"{self._discovery}/user-catalog/user/{USER_ID}")).json()

    async def _public_playlists(self) -> list[dict[str, Any]]:
        return (await self._http.get(f"{self._discovery}/playlists")).json()["items"]

    async def _until(self, ask: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
        return await ask_until(ask, good, limit_s=LIMIT_S)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _header(mail: dict[str, Any], name: str) -> str:
    headers: dict[str, Any] = dict(mail["headers"])
    return next((str(value) for key, value in headers.items() if key.lower() == name.lower()), "")
