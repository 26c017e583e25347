"""What music-discovery-ms tells the other services."""

from typing import Annotated

from msgspec import Meta, Struct

from cauce import IntegrationEvent

__all__ = ["SOURCE", "Favorites", "UserFavoritesUpdated"]

SOURCE = "music-discovery-ms"

Title = Annotated[str, Meta(min_length=1)]


class Favorites(Struct, frozen=True, kw_only=True):
    """Ids of what the user likes, in the user's order."""

    songs: tuple[Title, ...] = ()
    artists: tuple[Title, ...] = ()
    albums: tuple[Title, ...] = ()


class UserFavoritesUpdated(
    IntegrationEvent,
    name="com.clonespotify.discovery.user-music-catalog.integration.favorites-updated",
    version=1,
    key="user_id",
    source=SOURCE,
):
    """The user's favorites, whole, as they now are."""

    user_id: str
    favorites: Favorites
