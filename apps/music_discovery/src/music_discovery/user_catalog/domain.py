"""A user's catalog: their playlists, public or not, and their favorites.

Everything here is immutable: a change makes a new catalog with the next version and leaves the old one as it was,
so a change that is refused half-way has changed nothing.
"""

import re
from dataclasses import dataclass, replace
from typing import NewType

__all__ = [
    "CatalogId",
    "Favorites",
    "Playlist",
    "PlaylistId",
    "PlaylistNotFoundError",
    "Song",
    "User",
    "UserCatalog",
    "UserId",
    "canonical_id",
    "is_id",
]

CatalogId = NewType("CatalogId", str)
UserId = NewType("UserId", str)
PlaylistId = NewType("PlaylistId", str)

_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_id(text: str) -> bool:
    """Whether it is 8-4-4-4-12 hex. Any version and variant: the article's own example is of none."""
    return _ID.fullmatch(text) is not None


def canonical_id(text: str) -> str:
    """One spelling for one id: 8-4-4-4-12 hex in lower case; an id of any other form is left as it is."""
    return text.lower() if is_id(text) else text


class PlaylistNotFoundError(LookupError):
    """The catalog has no playlist of that id; nothing was changed."""

    def __init__(self, catalog_id: CatalogId, playlist_id: PlaylistId) -> None:
        self.catalog_id = catalog_id
        self.playlist_id = playlist_id
        super().__init__(f"The catalog {catalog_id} has no playlist {playlist_id}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Song:
    id: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Playlist:
    """A playlist as its owner edits it. The same song may be in it twice."""

    id: PlaylistId
    name: str
    is_public: bool
    songs: tuple[Song, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """The owner, as accounts-ms last named them."""

    id: UserId
    username: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Favorites:
    """Ids of what the user likes, in the user's order; each is liked once."""

    songs: tuple[str, ...] = ()
    artists: tuple[str, ...] = ()
    albums: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for liked in ("songs", "artists", "albums"):
            object.__setattr__(self, liked, tuple(dict.fromkeys(getattr(self, liked))))


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCatalog:
    """One user's catalog. `version` counts its changes from 1; two changes of one version cannot both be kept."""

    id: CatalogId
    user: User
    playlists: tuple[Playlist, ...] = ()
    favorites: Favorites = Favorites()
    version: int = 1

    def with_playlist(self, playlist: Playlist) -> "UserCatalog":
        """The playlist replaces the one of its id, if any, and stands last."""
        others = tuple(other for other in self.playlists if other.id != playlist.id)
        return replace(self, playlists=(*others, playlist), version=self.version + 1)

    def without_playlist(self, playlist_id: PlaylistId) -> "UserCatalog":
        """Raises PlaylistNotFoundError when it is not there."""
        others = tuple(other for other in self.playlists if other.id != playlist_id)
        if len(others) == len(self.playlists):
            raise PlaylistNotFoundError(self.id, playlist_id)
        return replace(self, playlists=others, version=self.version + 1)

    def with_favorites(self, favorites: Favorites) -> "UserCatalog":
        return replace(self, favorites=favorites, version=self.version + 1)

    def of_user_named(self, username: str) -> "UserCatalog":
        return replace(self, user=replace(self.user, username=username), version=self.version + 1)
