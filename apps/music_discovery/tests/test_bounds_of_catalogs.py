"""How much a catalog may hold: what fits no event or no answer is refused at the door, with the limit, and changes nothing."""

import json
from typing import Any

import pytest
from contracts.music_discovery import UserFavoritesUpdated
from music_discovery.user_catalog.domain import (
    MAX_CATALOG_BYTES,
    MAX_FAVORITES_BYTES,
    MAX_LIKED,
    MAX_PLAYLIST_BYTES,
    MAX_PLAYLISTS,
    MAX_SONGS,
)
from sqlalchemy import text

SONG = "bbbbbbbb-0000-4000-8000-000000000001"
WIDE = "日" * 300  # 900 bytes, the longest title but for emoji
QUOTES = '"' * 300  # two bytes each in JSON


def songs(count: int, title: str = "Uno") -> list[dict[str, str]]:
    return [{"id": SONG, "title": title}] * count


def size(body: Any) -> int:
    return len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


async def put_favorites(discovery: Any, catalog: Any, favorites: Any) -> Any:
    body = {"userId": catalog["user"]["id"], "favorites": favorites}
    return await discovery.send("PUT", "/user-catalog/favorites", body)


def refused_as(answer: Any, path: str, limit: str) -> None:
    assert answer.status_code == 422, answer.status_code
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert limit in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize("title", [WIDE, QUOTES, "😀" * 300], ids=["wide", "escaped", "emoji"])
async def test_a_playlist_that_fits_no_event_is_refused_with_the_limit(
    discovery: Any, playlist: Any, title: str
) -> None:
    catalog = await discovery.new_catalog()
    before = {**playlist("Before"), "songs": songs(1)}
    await discovery.put(catalog, before)
    published = len(discovery.published)

    answer = await discovery.try_to_put(
        catalog, {**before, "name": "After", "songs": songs(MAX_PLAYLIST_BYTES // size(title) + 1, title)}
    )

    refused_as(answer, "/playlist", f"{MAX_PLAYLIST_BYTES:,}")
    assert (await discovery.catalog(catalog))["playlists"] == [before]
    assert await discovery.found() == ["Before"]
    assert len(discovery.published) == published


async def test_the_largest_playlist_there_may_be_fits_its_event_and_has_its_page(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    largest = {**playlist("Largest"), "songs": songs(MAX_PLAYLIST_BYTES // size(songs(1, WIDE)[0]) - 2, WIDE)}
    while size(largest) < MAX_PLAYLIST_BYTES:
        room = MAX_PLAYLIST_BYTES - size(largest) - size(songs(1, "")[0]) - 1
        if room < 1:
            break
        largest["songs"] += songs(1, "x" * min(room, 300))

    assert size(largest) > MAX_PLAYLIST_BYTES - 100
    assert await discovery.put(catalog, largest) == largest
    answer = await discovery.http.get(f"/playlists/{catalog['id']}/{largest['id']}")
    assert answer.json()["songs"] == largest["songs"]


async def test_a_playlist_has_at_most_so_many_songs(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()

    assert (await discovery.try_to_put(catalog, {**playlist(), "songs": songs(MAX_SONGS)})).status_code == 200
    answer = await discovery.try_to_put(catalog, {**playlist(), "songs": songs(MAX_SONGS + 1)})

    refused_as(answer, "/playlist/songs", str(MAX_SONGS))
    assert (await discovery.search())["items"][0]["songCount"] == MAX_SONGS


async def test_favorites_that_fit_no_event_are_refused_with_the_limit(discovery: Any) -> None:
    catalog = await discovery.new_catalog()
    wide = [f"{number:04d}{'日' * 124}" for number in range(700)]

    for favorites in ({"songs": wide}, dict.fromkeys(("songs", "artists", "albums"), wide[:200])):
        refused_as(await put_favorites(discovery, catalog, favorites), "/favorites", f"{MAX_FAVORITES_BYTES:,}")

    assert await discovery.catalog(catalog) == catalog
    assert discovery.published == []


@pytest.mark.parametrize("kind", ["songs", "artists", "albums"])
async def test_favorites_of_one_kind_are_at_most_so_many_and_these_reach_other_services(
    discovery: Any, kind: str
) -> None:
    catalog = await discovery.new_catalog()
    most = {kind: [f"{number:05d}" for number in range(MAX_LIKED)]}

    refused_as(
        await put_favorites(discovery, catalog, {kind: [*most[kind], "x"]}), f"/favorites/{kind}", str(MAX_LIKED)
    )
    assert (await put_favorites(discovery, catalog, most)).status_code == 200
    [event] = discovery.published_as(UserFavoritesUpdated)
    assert list(getattr(event.favorites, kind)) == most[kind]


async def test_the_largest_favorites_there_may_be_fit_their_event(discovery: Any) -> None:
    catalog = await discovery.new_catalog()
    fitting: dict[str, list[str]] = {"songs": [], "artists": [], "albums": []}
    number = 0
    while size(fitting) < MAX_FAVORITES_BYTES - 400:
        fitting[("songs", "artists", "albums")[number % 3]].append(f"{number:04d}{'日' * 62}{'x' * 62}")
        number += 1

    answer = await put_favorites(discovery, catalog, fitting)

    assert (answer.status_code, answer.json()["favorites"]) == (200, fitting)
    await discovery.service.idle()
    assert discovery.service.counters["sent"] == 1


async def test_a_catalog_has_at_most_so_many_playlists_and_one_of_them_may_still_be_replaced(
    discovery: Any, playlist: Any
) -> None:
    catalog = await discovery.new_catalog()
    first = playlist("First")
    await discovery.put(catalog, first)
    await many(discovery, catalog, MAX_PLAYLISTS - 1)

    answer = await discovery.try_to_put(catalog, playlist("One more"))

    refused_as(answer, "/playlist", str(MAX_PLAYLISTS))
    await discovery.put(catalog, {**first, "name": "Another name"})
    assert len((await discovery.catalog(catalog))["playlists"]) == MAX_PLAYLISTS


async def test_a_catalog_has_at_most_so_many_bytes_and_one_that_is_larger_may_become_smaller(
    discovery: Any, playlist: Any
) -> None:
    catalog = await discovery.new_catalog()
    large = {**playlist("Large"), "songs": songs(210, WIDE)}
    await discovery.put(catalog, large)
    await many(discovery, catalog, MAX_CATALOG_BYTES // size(large), like=large)

    answer = await discovery.try_to_put(catalog, {**large, "id": playlist()["id"]})

    refused_as(answer, "/playlist", f"{MAX_CATALOG_BYTES:,}")
    # From before there was a limit: what makes it smaller is taken, what makes it larger is not.
    await many(discovery, catalog, 5, like=large)
    assert (await discovery.try_to_put(catalog, {**large, "songs": songs(211, WIDE)})).status_code == 422
    assert (await discovery.try_to_put(catalog, {**large, "songs": songs(9)})).status_code == 200


async def many(discovery: Any, catalog: Any, count: int, *, like: Any = None) -> None:
    """So many playlists more, written into the table: one by one they would take a minute."""
    first = await discovery.rows("catalog_playlists")
    name, of_them = ("x", "[]") if like is None else (like["name"], json.dumps(like["songs"]))
    rows = [
        {"catalog": catalog["id"], "id": f"{number}", "position": -number, "name": name, "songs": of_them}
        for number in range(first, first + count)
    ]
    async with discovery.service.transaction() as tx:
        statement = text(
            "INSERT INTO catalog_playlists (catalog_id, playlist_id, position, name, is_public, songs) "
            "VALUES (:catalog, :id, :position, :name, false, :songs)"
        )
        await tx.session.execute(statement, rows)


async def test_a_list_of_playlists_holds_no_songs_however_many_there_are(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    for number in range(12):
        await discovery.put(catalog, {**playlist(f"Rock {number}"), "songs": songs(80, WIDE)})

    for q in ("", "rock"):
        answer = await discovery.http.get("/playlists", params={"q": q, "limit": 100})

        assert [item["songCount"] for item in answer.json()["items"]] == [80] * 12
        assert all("songs" not in item for item in answer.json()["items"])
        assert len(answer.content) < 12 * 1024


async def test_the_limits_are_in_the_api_s_document(discovery: Any) -> None:
    document = (await discovery.http.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]

    assert schemas["PlaylistJson"]["properties"]["songs"]["maxItems"] == MAX_SONGS
    assert f"{MAX_PLAYLIST_BYTES:,}" in schemas["PlaylistJson"]["description"]
    assert f"{MAX_FAVORITES_BYTES:,}" in schemas["FavoritesJson"]["description"]
    assert schemas["FavoritesJson"]["properties"]["albums"]["maxItems"] == MAX_LIKED
    described = document["paths"]["/user-catalog/playlists"]["put"]["description"]
    assert f"{MAX_PLAYLISTS} playlists" in described
    assert f"{MAX_CATALOG_BYTES:,}" in described
    name = schemas["PlaylistJson"]["properties"]["name"]
    assert (name["minLength"], name["maxLength"]) == (1, 200)
    assert name["pattern"]
