"""GET /playlists over 100,000 public playlists, on SQLite and on PostgreSQL: the median of each kind of search.

    .venv/bin/python benchmarks/playlist_search.py [PLAYLISTS]

Each request goes through the whole application in this process, database included; only the network is left out.
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from cauce.dev.servers import PostgresServer, ScratchDatabases
from cauce.settings import load
from music_discovery.main import MIGRATIONS, build
from music_discovery.playlist_catalog.search_terms import indexed_terms
from music_discovery.settings import Settings
from seedwork import database
from sqlalchemy import text
from starlette.types import Receive, Scope, Send

PLAYLISTS = 100_000
ROUNDS = 101
SYLLABLES = [
    "ba",
    "be",
    "bi",
    "bo",
    "bu",
    "ca",
    "co",
    "cu",
    "da",
    "de",
    "di",
    "do",
    "ga",
    "go",
    "la",
    "le",
    "li",
    "lo",
    "ma",
    "me",
    "mi",
    "mo",
    "na",
    "no",
    "pa",
    "pe",
    "ra",
    "re",
    "ri",
    "ro",
    "sa",
    "se",
    "ta",
    "to",
    "va",
    "vi",
]

INSERT = text(
    "INSERT INTO public_playlists (catalog_id, playlist_id, user_id, name, songs, terms, song_count) "
    "VALUES (:catalog_id, :playlist_id, :user_id, :name, :songs, :terms, :song_count)"
)


def words() -> list[str]:
    """20,000 made words; the first are the most used."""
    chance = random.Random(1)
    made: dict[str, None] = {}
    while len(made) < 20_000:
        made["".join(chance.choices(SYLLABLES, k=chance.randint(2, 4)))] = None
    return list(made)


def playlists(count: int) -> Iterator[dict[str, Any]]:
    """Playlists of 10 songs with 3 words each, by Zipf's law; `comun` is in every second one, `xilofón` in five."""
    chance = random.Random(2)
    vocabulary = words()
    weights = [1 / (rank + 10) for rank in range(len(vocabulary))]
    for number in range(count):
        used = iter(chance.choices(vocabulary, weights, k=33))
        name = " ".join(next(used) for _ in range(3))
        name += " común" if number % 2 else ""
        name += " xilofón" if number % (count // 5) == 7 else ""
        name += " antiguo" if number % 2 and number < count // 2 else ""
        name += " medio" if number % 30 == 0 else ""
        songs = [" ".join(next(used) for _ in range(3)) for _ in range(10)]
        identity = f"{number:08d}-0000-0000-0000-000000000000"
        stored = ", ".join(f'{{"id": "{identity}", "title": "{title}"}}' for title in songs)
        yield {
            "catalog_id": identity,
            "playlist_id": identity,
            "user_id": identity,
            "name": name,
            "songs": f"[{stored}]",
            "song_count": len(songs),
            "terms": " ".join(indexed_terms(name, *songs)),
        }


@asynccontextmanager
async def running(url: str, count: int) -> AsyncGenerator[httpx.AsyncClient]:
    await asyncio.to_thread(database.migrate, url, MIGRATIONS)
    environ = {"MUSIC_DISCOVERY_DATABASE_URL": url, "EVENTS_TRANSPORT": "memory", "CAUCE_ENV_FILE": ""}
    service, app = build(load(Settings, environ=environ))
    async with service.lifespan() as state:
        batch = list(playlists(count))
        for start in range(0, count, 5_000):
            async with service.transaction() as tx:
                await tx.session.execute(INSERT, batch[start : start + 5_000])
        async with service.transaction() as tx:
            await tx.session.execute(text("ANALYZE"))

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        transport = httpx.ASGITransport(app=with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            yield http


SEARCHES: dict[str, str] = {
    "rare word": "xilofon",
    "common word": "comun",
    "common word, none among the newer half": "antiguo",
    "word in every 30th": "medio",
    "prefix of 1 letter": "b",
    "prefix of 2 letters": "ba",
    "prefix of 4 letters": "comu",
    "common and rare": "comun xilofon",
    "two common": "comun ba",
    "rare pair of prefixes": "bab ror",
    "ten single letters": "b c d g l m n p r s",
    "word of nobody": "xyzzy",
    "everything": "",
}


async def median_ms(http: httpx.AsyncClient, parameters: dict[str, Any]) -> tuple[float, int]:
    """The median time of one request, and how many playlists the page had."""
    taken: list[float] = []
    found = 0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        answer = await http.get("/playlists", params=parameters)
        taken.append((time.perf_counter() - start) * 1000)
        found = len(answer.raise_for_status().json()["items"])
    return statistics.median(taken), found


async def measure(url: str, count: int) -> dict[str, tuple[float, int]]:
    async with running(url, count) as http:
        results = {kind: await median_ms(http, {"q": q}) for kind, q in SEARCHES.items()}
        cursor = None
        for _ in range(50):
            page = (
                await http.get(
                    "/playlists", params={"q": "comun", "limit": 100} | ({"cursor": cursor} if cursor else {})
                )
            ).json()
            cursor = page["nextCursor"] or cursor
        results["common word, 51st page"] = await median_ms(http, {"q": "comun", "cursor": cursor})
        return results


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PLAYLISTS
    with tempfile.TemporaryDirectory(prefix="playlist-search-") as folder:
        Path(folder).chmod(0o711)
        on_sqlite = asyncio.run(measure(f"sqlite+aiosqlite:///{folder}/search.sqlite", count))
        server = PostgresServer(Path(folder) / "postgres")
        server.start()
        try:
            databases = ScratchDatabases(server, prefix="search")
            on_postgresql = asyncio.run(measure(databases.database(), count))
        finally:
            server.kill()
    print(f"GET /playlists over {count:,} public playlists, p50 of {ROUNDS} requests (ms), 20 to a page\n")
    print("| search | found | SQLite | PostgreSQL |")
    print("|---|---|---|---|")
    for kind, (sqlite_ms, found) in on_sqlite.items():
        postgresql_ms, also_found = on_postgresql[kind]
        assert found == also_found, f"{kind}: {found} on SQLite, {also_found} on PostgreSQL"
        print(f"| {kind} | {found} | {sqlite_ms:.1f} | {postgresql_ms:.1f} |")


if __name__ == "__main__":
    main()
