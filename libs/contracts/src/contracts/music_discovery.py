"""What music-discovery-ms tells the other services."""

from typing import Annotated

from cauce import IntegrationEvent
from msgspec import Meta, Struct

__all__ = ["SOURCE", "Favorites", "UserFavoritesUpdated"]

SOURCE = "music-discovery-ms"

MusicId = Annotated[str, Meta(min_length=1)]


class Favorites(Struct, frozen=True, kw_only=True):
    """Ids of what the user likes, in the user's order."""

    songs: tuple[MusicId, ...] = ()
    artists: tuple[MusicId, ...] = ()
    albums: tuple[MusicId, ...] = ()


class UserFavoritesUpdated(
    IntegrationEvent,
    name="com.clonespotify.discovery.user-music-catalog.integration.favorites-updated",
    version=1,
    key="user_id",
    source=SOURCE,
    rename="camel",
):
    """The user's favorites, whole, as they now are."""

    user_id: str
    favorites: Favorites
