"""What can be done with a user's catalog, and what it needs from outside.

Every change runs in the caller's transaction. Two writers of one catalog are told apart by its version: the one who
comes second reads again and repeats its change on top of the first one's, a bounded number of times.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from cauce import DomainEventBus

from music_discovery.shared.events import (
    CatalogRemoved,
    FavoritesUpdated,
    LikedMusic,
    PlaylistRemoved,
    PlaylistUpdated,
    SharedPlaylist,
    SharedSong,
)
from music_discovery.user_catalog.domain import (
    CatalogId,
    Favorites,
    Playlist,
    PlaylistId,
    User,
    UserCatalog,
    UserId,
)

__all__ = [
    "CatalogContendedError",
    "CatalogExistsError",
    "CatalogNotFoundError",
    "UserCatalogUseCases",
    "UserCatalogs",
]

ATTEMPTS: Final = 12
"""How often a change is tried against other writers of the same catalog."""


class CatalogNotFoundError(LookupError):
    """There is no such catalog; nothing was changed."""

    def __init__(self, wanted: str) -> None:
        super().__init__(f"There is no catalog {wanted}.")


class CatalogExistsError(Exception):
    """The user has a catalog, or another one has this id; nothing was changed."""

    def __init__(self, catalog: UserCatalog) -> None:
        super().__init__(
            f"The user {catalog.user.id} already has a catalog, or the id {catalog.id} belongs to another one."
        )


class CatalogContendedError(Exception):
    """Others kept changing the catalog; this change was not made. The caller may repeat it."""

    def __init__(self, catalog_id: CatalogId) -> None:
        super().__init__(
            f"The catalog {catalog_id} was changed by others {ATTEMPTS} times meanwhile. Repeat the request."
        )


class UserCatalogs(Protocol):
    """The catalogs, in the caller's transaction. What is handed out is never shared with anybody else."""

    async def find(self, catalog_id: CatalogId) -> UserCatalog | None:
        """The catalog as last committed, or as changed in this transaction."""
        ...

    async def find_by_user(self, user_id: UserId) -> UserCatalog | None: ...

    async def add(self, catalog: UserCatalog) -> bool:
        """Add a new, empty catalog. False if the id is taken or the user has one; waits for a concurrent adder."""
        ...

    async def replace(self, before: UserCatalog, after: UserCatalog) -> bool:
        """Keep `after` if `before` is still the last version. False, and nothing changed, if it is not.

        One version puts at most one playlist, and it stands last; the others are the very objects of `before`.
        """
        ...

    async def remove(self, catalog_id: CatalogId) -> bool:
        """Whether there was one to remove; waits for a concurrent change."""
        ...


Find = Callable[[], Awaitable[UserCatalog]]
Change = Callable[[UserCatalog], UserCatalog]


class UserCatalogUseCases:
    """The module's doors, for HTTP and for events alike."""

    def __init__(self, catalogs: UserCatalogs, events: DomainEventBus) -> None:
        self._catalogs = catalogs
        self._events = events

    async def get(self, catalog_id: CatalogId) -> UserCatalog:
        """Raises CatalogNotFoundError."""
        catalog = await self._catalogs.find(catalog_id)
        if catalog is None:
            raise CatalogNotFoundError(catalog_id)
        return catalog

    async def get_of_user(self, user_id: UserId) -> UserCatalog:
        """Raises CatalogNotFoundError."""
        catalog = await self._catalogs.find_by_user(user_id)
        if catalog is None:
            raise CatalogNotFoundError(f"of the user {user_id}")
        return catalog

    async def create(self, catalog: UserCatalog) -> UserCatalog:
        """Raises CatalogExistsError."""
        if not await self._catalogs.add(catalog):
            raise CatalogExistsError(catalog)
        return catalog

    async def update_playlist(self, catalog_id: CatalogId, playlist: Playlist) -> UserCatalog:
        """Add the playlist or replace the one of its id; it stands last. Publishes PlaylistUpdated.

        Raises CatalogNotFoundError, BeyondLimitError and CatalogContendedError; then nothing is changed.
        """
        catalog = await self._change(lambda: self.get(catalog_id), lambda found: found.with_playlist(playlist))
        await self._events.publish(
            PlaylistUpdated(
                playlist=_shared(playlist),
                user_id=catalog.user.id,
                catalog_id=catalog.id,
                catalog_version=catalog.version,
            )
        )
        return catalog

    async def remove_playlist(self, catalog_id: CatalogId, playlist_id: PlaylistId) -> None:
        """Publishes PlaylistRemoved.

        Raises CatalogNotFoundError, PlaylistNotFoundError and CatalogContendedError; then nothing is changed.
        """
        catalog = await self._change(lambda: self.get(catalog_id), lambda found: found.without_playlist(playlist_id))
        await self._events.publish(
            PlaylistRemoved(
                playlist_id=playlist_id,
                user_id=catalog.user.id,
                catalog_id=catalog.id,
                catalog_version=catalog.version,
            )
        )

    async def update_favorites(self, user_id: UserId, favorites: Favorites) -> UserCatalog:
        """Publishes FavoritesUpdated.

        Raises CatalogNotFoundError, BeyondLimitError and CatalogContendedError; then nothing is changed.
        """
        catalog = await self._change(lambda: self.get_of_user(user_id), lambda found: found.with_favorites(favorites))
        liked = catalog.favorites
        await self._events.publish(
            FavoritesUpdated(
                user_id=user_id,
                favorites=LikedMusic(songs=liked.songs, artists=liked.artists, albums=liked.albums),
            )
        )
        return catalog

    async def welcome(self, new_id: CatalogId, user: User) -> None:
        """An empty catalog for a new user. One who has a catalog keeps it, under the name given now."""
        if not await self._catalogs.add(UserCatalog(id=new_id, user=user)):
            await self.rename(user)

    async def rename(self, user: User) -> None:
        """Take over the user's name. A user without a catalog is passed over."""
        with suppress(CatalogNotFoundError):
            await self._change(lambda: self.get_of_user(user.id), lambda found: found.of_user_named(user.username))

    async def remove_of_user(self, user_id: UserId) -> None:
        """Remove the user's catalog, if there is one, and publish CatalogRemoved."""
        catalog = await self._catalogs.find_by_user(user_id)
        if catalog is not None and await self._catalogs.remove(catalog.id):
            await self._events.publish(CatalogRemoved(catalog_id=catalog.id, user_id=user_id))

    async def _change(self, find: Find, change: Change) -> UserCatalog:
        """The catalog with the change in it, kept. Raises CatalogContendedError after ATTEMPTS tries."""
        before = await find()
        for attempt in range(ATTEMPTS):
            after = change(before)
            if await self._catalogs.replace(before, after):
                return after
            # Writers that failed together would fail together again.
            await asyncio.sleep(random.uniform(0, 0.005 * 2 ** min(attempt, 5)))
            before = await find()
        raise CatalogContendedError(before.id)


def _shared(playlist: Playlist) -> SharedPlaylist:
    return SharedPlaylist(
        id=playlist.id,
        name=playlist.name,
        is_public=playlist.is_public,
        songs=tuple(SharedSong(id=song.id, title=song.title) for song in playlist.songs),
    )
