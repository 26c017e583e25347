"""What music-discovery hears, what it says, and what stands or falls together."""

import logging
from typing import Any

import msgspec
import pytest
from contracts.accounts import UserCreated, UserDeleted, UserUpdated
from contracts.music_discovery import UserFavoritesUpdated
from music_discovery.shared.events import (
    CatalogRemoved,
    FavoritesUpdated,
    PlaylistRemoved,
    PlaylistUpdated,
    SharedPlaylist,
    SharedSong,
)
from sqlalchemy import text

JOHN = UserCreated(id="12345678-1234-1234-1234-123456789abc", username="john_doe", email="john.doe@example.com")


async def catalog_of(discovery: Any, user_id: str) -> Any:
    answer = await discovery.http.get(f"/user-catalog/user/{user_id}")
    return answer.json() if answer.status_code == 200 else None


async def test_a_user_who_signed_up_has_an_empty_catalog(discovery: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await discovery.hear(JOHN)

    catalog = await catalog_of(discovery, JOHN.id)
    assert catalog["user"] == {"id": JOHN.id, "username": "john_doe"}
    assert (catalog["playlists"], catalog["favorites"]) == ([], {"songs": [], "artists": [], "albums": []})
    assert (
        "Event received: com.clonespotify.accounts.users.integration.user-created from accounts-ms" in caplog.messages
    )
    assert "john.doe@example.com" not in caplog.text


async def test_a_user_who_has_a_catalog_keeps_it_under_the_new_name(discovery: Any, playlist: Any) -> None:
    await discovery.hear(JOHN)
    catalog = await catalog_of(discovery, JOHN.id)
    kept = playlist("Kept")
    await discovery.put(catalog, kept)

    await discovery.hear(msgspec.structs.replace(JOHN, id=JOHN.id.upper(), username="johnny"), JOHN)
    await discovery.hear(msgspec.structs.replace(JOHN, username="johnny"))

    assert await catalog_of(discovery, JOHN.id) == {
        **catalog,
        "user": {"id": JOHN.id, "username": "johnny"},
        "playlists": [kept],
    }
    assert await discovery.rows("user_catalogs") == 1
    assert discovery.service.counters["failed"] == 0


async def test_a_user_who_is_renamed_is_renamed_in_the_catalog(discovery: Any) -> None:
    await discovery.hear(JOHN, UserUpdated(id=JOHN.id, username="jane_doe", email="jane@example.com"))

    assert (await catalog_of(discovery, JOHN.id))["user"]["username"] == "jane_doe"


@pytest.mark.parametrize("unfit", ["a\u3164", "a\u202eb", "x" * 201, " "])
async def test_a_name_that_cannot_be_shown_is_rejected_and_never_in_a_catalog(
    discovery: Any, unfit: str, caplog: pytest.LogCaptureFixture
) -> None:
    await discovery.hear(JOHN)
    await discovery.hear(
        msgspec.structs.replace(JOHN, id=JOHN.id.replace("1", "2"), username=unfit),
        UserUpdated(id=JOHN.id, username=unfit, email=JOHN.email),
    )

    assert await discovery.rows("user_catalogs") == 1
    assert (await catalog_of(discovery, JOHN.id))["user"]["username"] == "john_doe"
    assert discovery.service.counters["failed"] == 2
    assert "no text that can be shown" in caplog.text


async def test_a_name_that_could_be_chosen_once_still_has_its_catalog(discovery: Any) -> None:
    await discovery.hear(msgspec.structs.replace(JOHN, username="John 🎸"))

    assert (await catalog_of(discovery, JOHN.id))["user"]["username"] == "John 🎸"


async def test_news_of_users_without_a_catalog_are_passed_over(discovery: Any) -> None:
    await discovery.hear(UserUpdated(id=JOHN.id, username="x", email="x@example.com"), UserDeleted(id=JOHN.id))

    assert await discovery.rows("user_catalogs") == 0
    assert discovery.service.counters["failed"] == 0
    assert discovery.service.counters["handled"] == 2


async def test_a_deleted_user_leaves_nothing_and_may_come_again(discovery: Any, playlist: Any) -> None:
    await discovery.hear(JOHN)
    others = await discovery.new_catalog(username="other")
    await discovery.put(others, playlist("Of another"))
    catalog = await catalog_of(discovery, JOHN.id)
    for name in ("One", "Two"):
        await discovery.put(catalog, playlist(name))

    await discovery.hear(UserDeleted(id=JOHN.id))

    assert await catalog_of(discovery, JOHN.id) is None
    assert await discovery.found() == ["Of another"]
    assert [await discovery.rows(table) for table in ("catalog_playlists", "public_playlist_versions")] == [1, 1]
    assert discovery.published_as(CatalogRemoved) == [CatalogRemoved(catalog_id=catalog["id"], user_id=JOHN.id)]

    await discovery.hear(JOHN)
    again = await catalog_of(discovery, JOHN.id)
    assert again["playlists"] == []
    assert again["id"] != catalog["id"]


async def test_a_catalog_made_again_under_its_old_id_publishes_again(discovery: Any, playlist: Any) -> None:
    catalog, rock = await discovery.new_catalog(), playlist("Rock")
    for _ in range(3):
        await discovery.put(catalog, rock)
    await discovery.hear(UserDeleted(id=catalog["user"]["id"]))

    await discovery.http.post("/user-catalog", json={"id": catalog["id"], "user": catalog["user"]})
    await discovery.put(catalog, rock)

    assert await discovery.found() == ["Rock"]


async def test_a_public_playlist_updated_three_times_is_one_entry_and_private_it_is_gone(
    discovery: Any, playlist: Any
) -> None:
    catalog = await discovery.new_catalog()
    rock = playlist("Rock", songs=("Uno",))
    other = playlist("Other")
    await discovery.put(catalog, rock)
    await discovery.put(catalog, other)
    for name in ("Rock 1", "Rock 2", "Rock 3"):
        await discovery.put(catalog, {**rock, "name": name})

    page = await discovery.search()
    assert page["nextCursor"] is None
    assert page["items"][1] == {
        "id": rock["id"],
        "userCatalogId": catalog["id"],
        "userId": catalog["user"]["id"],
        "name": "Rock 3",
        "songCount": 1,
    }
    of_its_own = await discovery.http.get(f"/playlists/{catalog['id'].upper()}/{rock['id']}")
    assert of_its_own.json() == {
        "id": rock["id"],
        "userCatalogId": catalog["id"],
        "userId": catalog["user"]["id"],
        "name": "Rock 3",
        "songs": rock["songs"],
    }
    assert [item["name"] for item in page["items"]] == ["Other", "Rock 3"]
    assert await discovery.found("Rock 1") == []

    await discovery.put(catalog, {**rock, "isPublic": False})
    assert await discovery.found() == ["Other"]
    assert await discovery.found("rock") == []
    gone = await discovery.http.get(f"/playlists/{catalog['id']}/{rock['id']}")
    assert (gone.status_code, gone.headers["content-type"]) == (404, "application/problem+json")

    await discovery.put(catalog, rock)
    assert await discovery.found() == ["Rock", "Other"]


async def test_a_private_playlist_is_never_public(discovery: Any, playlist: Any) -> None:
    await discovery.put(await discovery.new_catalog(), playlist("Secret", public=False))

    assert await discovery.found() == []


async def test_two_users_may_use_one_playlist_id(discovery: Any, playlist: Any) -> None:
    mine, yours = await discovery.new_catalog(), await discovery.new_catalog()
    of_mine = playlist("Mine")
    await discovery.put(mine, of_mine)
    await discovery.put(yours, {**of_mine, "name": "Yours"})

    assert await discovery.found() == ["Yours", "Mine"]

    await discovery.http.delete(f"/user-catalog/{mine['id']}/playlists/{of_mine['id']}")
    assert await discovery.found() == ["Yours"]


async def test_every_change_is_published_with_its_version(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    user_id, rock = catalog["user"]["id"], playlist("Rock", songs=("Uno",))

    await discovery.put(catalog, rock)
    await discovery.http.put("/user-catalog/favorites", json={"userId": user_id, "favorites": {"songs": ["a"]}})
    await discovery.http.delete(f"/user-catalog/{catalog['id']}/playlists/{rock['id']}")

    told = PlaylistUpdated(
        playlist=SharedPlaylist(
            id=rock["id"], name="Rock", is_public=True, songs=(SharedSong(id=rock["songs"][0]["id"], title="Uno"),)
        ),
        user_id=user_id,
        catalog_id=catalog["id"],
        catalog_version=2,
    )
    removed = PlaylistRemoved(playlist_id=rock["id"], user_id=user_id, catalog_id=catalog["id"], catalog_version=4)
    assert discovery.published_as(PlaylistUpdated, PlaylistRemoved) == [told, removed]


async def test_favorites_become_an_integration_event_in_camel_case(discovery: Any) -> None:
    await discovery.hear(JOHN)
    favorites = {"songs": ["s1", "s2"], "artists": ["a1"], "albums": []}

    await discovery.http.put("/user-catalog/favorites", json={"userId": JOHN.id, "favorites": favorites})

    domain, integration = [
        one for one in discovery.published if isinstance(one.payload, FavoritesUpdated | UserFavoritesUpdated)
    ]
    assert domain.name == "com.clonespotify.discovery.user-music-catalog.domain.favorites-updated"
    assert integration.name == "com.clonespotify.discovery.user-music-catalog.integration.favorites-updated"
    assert (integration.source, integration.key) == ("music-discovery-ms", JOHN.id)
    assert integration.causation_id == domain.id
    assert msgspec.json.decode(msgspec.json.encode(integration.payload)) == {"userId": JOHN.id, "favorites": favorites}
    await discovery.service.idle()
    assert discovery.service.counters["sent"] == 1


async def test_a_change_stands_or_falls_with_its_public_copy(
    discovery: Any, playlist: Any, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = await discovery.new_catalog()
    await discovery.put(catalog, playlist("Before"))
    before = await discovery.catalog(catalog)
    async with discovery.service.transaction() as tx:
        await tx.session.execute(text("ALTER TABLE public_playlist_versions RENAME TO lost"))

    with caplog.at_level(logging.INFO):
        answer = await discovery.try_to_put(catalog, playlist("After"))
        await discovery.service.idle()

    assert answer.status_code >= 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert await discovery.catalog(catalog) == before
    assert await discovery.found() == ["Before"]
    assert not [line for line in caplog.messages if line.startswith("Domain event:")]


async def test_the_audit_log_notes_domain_events_and_nothing_else(
    discovery: Any, playlist: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await discovery.hear(JOHN)
        catalog = await catalog_of(discovery, JOHN.id)
        await discovery.put(catalog, playlist("Guilty pleasures"))
        await discovery.http.put("/user-catalog/favorites", json={"userId": JOHN.id, "favorites": {}})
        await discovery.service.idle()

    noted = [line for line in caplog.messages if line.startswith("Domain event:")]
    updated, favorites = discovery.published_as(PlaylistUpdated, FavoritesUpdated)
    assert [line.split()[2].rpartition(".")[2] for line in noted] == ["playlist-updated", "favorites-updated"]
    assert noted[0].endswith(f" user_id={updated.user_id} catalog_id={updated.catalog_id}")
    assert noted[1].endswith(f" user_id={favorites.user_id}")
    assert "Guilty pleasures" not in caplog.text
