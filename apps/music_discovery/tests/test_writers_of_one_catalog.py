"""Several writers of one catalog at once: nothing is lost, on either database."""

import asyncio
from typing import Any

import pytest
from cauce import DomainEvent
from contracts.accounts import UserCreated, UserDeleted, UserUpdated
from music_discovery.user_catalog import application
from music_discovery.user_catalog.application import CatalogContendedError, UserCatalogs, UserCatalogUseCases
from music_discovery.user_catalog.domain import CatalogId, Playlist, PlaylistId, User, UserCatalog, UserId
from music_discovery.user_catalog.infrastructure import SqlUserCatalogs
from sqlalchemy import text


async def put_at_once(discovery: Any, catalog: Any, playlists: list[Any]) -> list[Any]:
    """The playlists that were accepted; the others were answered 409."""
    async with asyncio.TaskGroup() as writers:
        tasks = [writers.create_task(discovery.try_to_put(catalog, one)) for one in playlists]
    answers = [task.result().status_code for task in tasks]
    assert set(answers) <= {200, 409}
    return [one for one, status in zip(playlists, answers, strict=True) if status == 200]


def in_any_order(playlists: list[Any]) -> list[Any]:
    return sorted(playlists, key=lambda one: one["id"])


async def assert_kept(discovery: Any, catalog: Any, accepted: list[Any]) -> None:
    """The catalog, its public copies and its version tell of every accepted playlist and of no other."""
    found = (await discovery.catalog(catalog))["playlists"]
    assert in_any_order(found) == in_any_order(accepted)
    assert sorted(await discovery.found(limit=100)) == sorted(one["name"] for one in accepted)
    async with discovery.service.transaction(read_only=True) as tx:
        version = await tx.session.scalar(text("SELECT version FROM user_catalogs"))
        positions = list(await tx.session.scalars(text("SELECT position FROM catalog_playlists ORDER BY 1")))
    assert (version, positions) == (1 + len(accepted), list(range(2, 2 + len(accepted))))


async def test_two_writers_at_once_are_both_kept(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    both = [playlist("One"), playlist("Two")]

    assert await put_at_once(discovery, catalog, both) == both
    await assert_kept(discovery, catalog, both)


async def test_of_twenty_writers_at_once_everyone_who_was_told_so_is_kept(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()
    waiting = [playlist(f"Number {number}") for number in range(20)]
    kept: list[Any] = []
    for _ in range(20):
        accepted = await put_at_once(discovery, catalog, waiting)
        assert accepted  # one of those who meet always wins
        kept += accepted
        await assert_kept(discovery, catalog, kept)
        waiting = [one for one in waiting if one not in accepted]
        if not waiting:
            break

    assert len(kept) == 20


async def test_without_another_try_twenty_writers_lose_nothing_they_were_promised(
    discovery: Any, playlist: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "ATTEMPTS", 1)
    catalog = await discovery.new_catalog()

    accepted = await put_at_once(discovery, catalog, [playlist(f"Number {number}") for number in range(20)])

    assert accepted
    await assert_kept(discovery, catalog, accepted)


async def test_twenty_writers_of_one_playlist_leave_one_of_theirs(discovery: Any, playlist: Any) -> None:
    catalog, rock = await discovery.new_catalog(), playlist("Rock")
    versions = [{**rock, "name": f"Rock {number}"} for number in range(20)]

    accepted = await put_at_once(discovery, catalog, versions)

    [left] = (await discovery.catalog(catalog))["playlists"]
    assert left in accepted
    assert await discovery.found() == [left["name"]]


async def test_a_playlist_and_favorites_at_once_are_both_kept(discovery: Any, playlist: Any) -> None:
    catalog, rock = await discovery.new_catalog(), playlist("Rock")
    user_id: str = catalog["user"]["id"]
    liked = {"userId": user_id, "favorites": {"songs": ["a"]}}

    async with asyncio.TaskGroup() as writers:
        writers.create_task(discovery.put(catalog, rock))
        writers.create_task(discovery.http.put("/user-catalog/favorites", json=liked))
        writers.create_task(discovery.hear(UserUpdated(id=user_id, username="renamed", email="r@example.com")))

    found = await discovery.catalog(catalog)
    assert (found["playlists"], found["favorites"]["songs"], found["user"]["username"]) == ([rock], ["a"], "renamed")


async def test_a_user_who_is_deleted_while_they_write_leaves_nothing_behind(discovery: Any, playlist: Any) -> None:
    catalog = await discovery.new_catalog()

    async with asyncio.TaskGroup() as writers:
        tasks = [writers.create_task(discovery.try_to_put(catalog, playlist(f"{number}"))) for number in range(8)]
        writers.create_task(discovery.hear(UserDeleted(id=catalog["user"]["id"])))

    assert {task.result().status_code for task in tasks} <= {200, 404, 409}
    for table in ("user_catalogs", "catalog_playlists", "public_playlists", "public_playlist_versions"):
        assert await discovery.rows(table) == 0, table


async def test_of_ten_that_create_a_users_catalog_at_once_one_does(discovery: Any, new_id: Any) -> None:
    user = {"id": new_id(), "username": "john_doe"}

    async with asyncio.TaskGroup() as writers:
        tasks = [
            writers.create_task(discovery.http.post("/user-catalog", json={"id": new_id(), "user": user}))
            for _ in range(10)
        ]

    assert sorted(task.result().status_code for task in tasks) == [201] + [409] * 9
    assert await discovery.rows("user_catalogs") == 1


async def test_two_replicas_that_hear_of_a_user_make_one_catalog(database_url: str, running: Any) -> None:
    users = [
        UserCreated(id=f"{n:08d}-1234-1234-1234-123456789abc", username="j", email="j@example.com") for n in range(5)
    ]
    async with running(database_url) as first, running(database_url) as second:
        async with asyncio.TaskGroup() as replicas:
            replicas.create_task(first.hear(*users))
            replicas.create_task(second.hear(*users))

        assert await first.rows("user_catalogs") == 5
        assert first.service.counters["failed"] + second.service.counters["failed"] == 0


CATALOG = UserCatalog(id=CatalogId("c"), user=User(id=UserId("u"), username="john_doe"))
PLAYLIST = Playlist(id=PlaylistId("p"), name="Rock", is_public=True)


async def test_a_change_of_an_earlier_version_is_refused_and_changes_nothing(discovery: Any) -> None:
    async with discovery.service.transaction() as tx:
        catalogs: UserCatalogs = SqlUserCatalogs(tx.session)
        assert await catalogs.add(CATALOG)
        assert not await catalogs.add(CATALOG)
        newer = CATALOG.with_playlist(PLAYLIST)
        assert await catalogs.replace(CATALOG, newer)

        assert not await catalogs.replace(CATALOG, CATALOG.of_user_named("nobody"))

        assert await catalogs.find(CATALOG.id) == newer
        assert await catalogs.remove(CATALOG.id)
        assert not await catalogs.remove(CATALOG.id)
        assert not await catalogs.replace(newer, newer.of_user_named("nobody"))


async def test_a_writer_who_always_comes_second_is_told_so_and_nothing_is_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(application, "ATTEMPTS", 3)
    tries: list[UserCatalog] = []
    published: list[DomainEvent] = []

    class Contended:
        async def find(self, catalog_id: CatalogId) -> UserCatalog | None:
            return CATALOG

        async def find_by_user(self, user_id: UserId) -> UserCatalog | None:
            return CATALOG

        async def add(self, catalog: UserCatalog) -> bool:
            return False

        async def replace(self, before: UserCatalog, after: UserCatalog) -> bool:
            tries.append(after)
            return False

        async def remove(self, catalog_id: CatalogId) -> bool:
            return True

    class Events:
        async def publish(self, event: DomainEvent, /) -> None:
            published.append(event)

    with pytest.raises(CatalogContendedError, match=r"changed by others 3 times meanwhile\. Repeat the request"):
        await UserCatalogUseCases(Contended(), Events()).update_playlist(CATALOG.id, PLAYLIST)
    assert (len(tries), published) == (3, [])
