"""The domain events of music-discovery: how its modules tell each other what happened.

Their payload types are their own. Each module has its own idea of a playlist (for one it is something the user
edits, for the other something the public finds), and neither idea is in here.
"""

from cauce import DomainEvent
from msgspec import Struct

__all__ = [
    "DISCOVERY",
    "CatalogRemoved",
    "FavoritesUpdated",
    "LikedMusic",
    "PlaylistRemoved",
    "PlaylistUpdated",
    "SharedPlaylist",
    "SharedSong",
]

DISCOVERY = "com.clonespotify.discovery.**"
"""The pattern of every event of this service."""

_DOMAIN = "com.clonespotify.discovery.user-music-catalog.domain"


class SharedSong(Struct, frozen=True, kw_only=True):
    """A song as told in an event."""

    id: str
    title: str


class SharedPlaylist(Struct, frozen=True, kw_only=True):
    """A playlist as told in an event: an immutable copy, never the one somebody goes on editing."""

    id: str
    name: str
    is_public: bool
    songs: tuple[SharedSong, ...]


class LikedMusic(Struct, frozen=True, kw_only=True):
    """Ids of what a user likes, in the user's order."""

    songs: tuple[str, ...]
    artists: tuple[str, ...]
    albums: tuple[str, ...]


class PlaylistUpdated(DomainEvent, name=f"{_DOMAIN}.playlist-updated"):
    """A playlist was added to a user's catalog or replaced in it."""

    playlist: SharedPlaylist
    user_id: str
    catalog_id: str
    catalog_version: int
    """The version of the catalog that this change made; of two events of a playlist the higher one is true."""


class PlaylistRemoved(DomainEvent, name=f"{_DOMAIN}.playlist-removed"):
    """A playlist is no longer in the catalog."""

    playlist_id: str
    user_id: str
    catalog_id: str
    catalog_version: int


class CatalogRemoved(DomainEvent, name=f"{_DOMAIN}.catalog-removed"):
    """A user's catalog is gone with all its playlists. Its id may be used again by a new catalog."""

    catalog_id: str
    user_id: str


class FavoritesUpdated(DomainEvent, name=f"{_DOMAIN}.favorites-updated"):
    """The user's favorites, whole, as they now are."""

    user_id: str
    favorites: LikedMusic
