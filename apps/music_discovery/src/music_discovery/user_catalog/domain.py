"""A user's catalog: their playlists, public or not, and their favorites.

Everything here is immutable: a change makes a new catalog with the next version and leaves the old one as it was,
so a change that is refused half-way has changed nothing.

A catalog has bounds. What is told of it has to fit one event (256 KiB), and what is answered has to be small enough
for everybody else to be served meanwhile.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NewType

from seedwork.text import InvalidTextError, identifier

__all__ = [
    "MAX_CATALOG_BYTES",
    "MAX_FAVORITES_BYTES",
    "MAX_LIKED",
    "MAX_PLAYLISTS",
    "MAX_PLAYLIST_BYTES",
    "MAX_SONGS",
    "BeyondLimitError",
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
]

CatalogId = NewType("CatalogId", str)
UserId = NewType("UserId", str)
PlaylistId = NewType("PlaylistId", str)

MAX_SONGS: Final = 1_000
"""Songs of a playlist."""

MAX_LIKED: Final = 2_000
"""Favorites of one kind: songs, artists or albums."""

MAX_PLAYLISTS: Final = 200
"""Playlists of a catalog."""

MAX_PLAYLIST_BYTES: Final = 200 * 1024
"""Of a playlist as JSON in UTF-8. An event may have 256 KiB; the rest is for what surrounds it."""

MAX_FAVORITES_BYTES: Final = MAX_PLAYLIST_BYTES
"""Of all favorites of a user as JSON in UTF-8; they travel in one event."""

MAX_CATALOG_BYTES: Final = 1024 * 1024
"""Of all playlists of a catalog together, as JSON in UTF-8."""


def canonical_id(text: str) -> str:
    """One spelling for one id: 8-4-4-4-12 hex in lower case; an id of any other form is left as it is."""
    try:
        return identifier(text)
    except InvalidTextError:
        return text


class PlaylistNotFoundError(LookupError):
    """The catalog has no playlist of that id; nothing was changed."""

    def __init__(self, catalog_id: CatalogId, playlist_id: PlaylistId) -> None:
        self.catalog_id = catalog_id
        self.playlist_id = playlist_id
        super().__init__(f"The catalog {catalog_id} has no playlist {playlist_id}.")


class BeyondLimitError(ValueError):
    """More than a catalog may hold; nothing was changed. `part` is what is too large; the message says the limit."""

    def __init__(self, part: str, message: str) -> None:
        self.part = part
        super().__init__(message)


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

    @property
    def size(self) -> int:
        """In bytes, as JSON in UTF-8."""
        songs = [{"id": song.id, "title": song.title} for song in self.songs]
        return _json_bytes({"id": self.id, "name": self.name, "isPublic": self.is_public, "songs": songs})


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

    @property
    def size(self) -> int:
        """In bytes, as JSON in UTF-8."""
        return _json_bytes({"songs": self.songs, "artists": self.artists, "albums": self.albums})


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCatalog:
    """One user's catalog. `version` counts its changes from 1; two changes of one version cannot both be kept."""

    id: CatalogId
    user: User
    playlists: tuple[Playlist, ...] = ()
    favorites: Favorites = Favorites()
    version: int = 1

    @property
    def size(self) -> int:
        """The playlists, in bytes, as JSON in UTF-8."""
        return sum(playlist.size for playlist in self.playlists)

    def with_playlist(self, playlist: Playlist) -> "UserCatalog":
        """The playlist replaces the one of its id, if any, and stands last. Raises BeyondLimitError."""
        _require("playlist", "The playlist", playlist.size, MAX_PLAYLIST_BYTES)
        others = tuple(other for other in self.playlists if other.id != playlist.id)
        after = replace(self, playlists=(*others, playlist), version=self.version + 1)
        if len(after.playlists) > max(MAX_PLAYLISTS, len(self.playlists)):
            raise BeyondLimitError("playlist", f"The catalog has {MAX_PLAYLISTS} playlists, and may not have more.")
        # A catalog that is too large, from a time without a limit, may become smaller.
        if (size := after.size) > MAX_CATALOG_BYTES and size > self.size:
            _require("playlist", "The catalog with this playlist", size, MAX_CATALOG_BYTES)
        return after

    def without_playlist(self, playlist_id: PlaylistId) -> "UserCatalog":
        """Raises PlaylistNotFoundError when it is not there."""
        others = tuple(other for other in self.playlists if other.id != playlist_id)
        if len(others) == len(self.playlists):
            raise PlaylistNotFoundError(self.id, playlist_id)
        return replace(self, playlists=others, version=self.version + 1)

    def with_favorites(self, favorites: Favorites) -> "UserCatalog":
        """Raises BeyondLimitError."""
        _require("favorites", "The favorites", favorites.size, MAX_FAVORITES_BYTES)
        return replace(self, favorites=favorites, version=self.version + 1)

    def of_user_named(self, username: str) -> "UserCatalog":
        return replace(self, user=replace(self.user, username=username), version=self.version + 1)


def _json_bytes(value: Mapping[str, object]) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _require(part: str, what: str, size: int, limit: int) -> None:
    if size > limit:
        raise BeyondLimitError(part, f"{what} would have {size:,} bytes as JSON; at most {limit:,} are possible.")
