"""What the users' catalogs listen to: the accounts of other services, and their own favorites."""

import logging
from typing import Final
from uuid import uuid4

from cauce import Context, Reject, Transaction, on
from contracts.accounts import UserCreated, UserDeleted, UserUpdated
from contracts.music_discovery import Favorites, UserFavoritesUpdated
from seedwork.text import InvalidTextError, one_line

from music_discovery.shared.events import FavoritesUpdated
from music_discovery.user_catalog.application import UserCatalogUseCases
from music_discovery.user_catalog.domain import CatalogId, User, UserId, canonical_id

__all__ = [
    "create_catalog_when_user_created",
    "remove_catalog_when_user_deleted",
    "rename_owner_when_user_updated",
    "tell_other_services_when_favorites_updated",
]

log = logging.getLogger(__name__)

MAX_ID: Final = 128
"""Of a user, in an event: ours have 36 characters, those of other publishers may look different."""
MAX_NAME: Final = 200


@on(UserCreated)
async def create_catalog_when_user_created(
    event: UserCreated, context: Context, use_cases: UserCatalogUseCases
) -> None:
    _log_receipt(context)
    await use_cases.welcome(CatalogId(str(uuid4())), _user(event))


@on(UserUpdated)
async def rename_owner_when_user_updated(event: UserUpdated, context: Context, use_cases: UserCatalogUseCases) -> None:
    _log_receipt(context)
    await use_cases.rename(_user(event))


@on(UserDeleted)
async def remove_catalog_when_user_deleted(
    event: UserDeleted, context: Context, use_cases: UserCatalogUseCases
) -> None:
    _log_receipt(context)
    await use_cases.remove_of_user(UserId(canonical_id(event.id)))


@on(FavoritesUpdated)
async def tell_other_services_when_favorites_updated(event: FavoritesUpdated, tx: Transaction) -> None:
    liked = event.favorites
    await tx.publish(
        UserFavoritesUpdated(
            user_id=event.user_id,
            favorites=Favorites(songs=liked.songs, artists=liked.artists, albums=liked.albums),
        )
    )


def _user(event: UserCreated | UserUpdated) -> User:
    """Raises Reject for a name or an id that is no text on one line: no attempt would make another of it.

    Wider than what a form may send today. Names with emoji have been announced, and are announced again after a
    rewind; a user who has one must not lose the catalog.
    """
    try:
        return User(
            id=UserId(canonical_id(one_line(event.id, at_most=MAX_ID))),
            username=one_line(event.username, at_most=MAX_NAME),
        )
    except InvalidTextError as error:
        raise Reject(f"the user's id or name is no text that can be shown: {error}") from None


def _log_receipt(context: Context) -> None:
    log.info("Event received: %s from %s", context.name, context.source)
