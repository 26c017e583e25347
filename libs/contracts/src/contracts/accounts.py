"""What accounts-ms tells the other services. Payloads are plain data; the password never leaves accounts-ms."""

from collections.abc import Mapping

from cauce import IntegrationEvent

__all__ = ["NEST_NAMES", "SOURCE", "UserCreated", "UserDeleted", "UserUpdated"]

SOURCE = "accounts-ms"

_ARTICLE_USER_CREATED = "com.clonespotify.accounts.users.integration.user-updated"


class UserCreated(
    IntegrationEvent,
    name="com.clonespotify.accounts.users.integration.user-created",
    version=1,
    key="id",
    source=SOURCE,
    earlier_names=(_ARTICLE_USER_CREATED,),
):
    """Somebody signed up. Starts the welcome: a mail, and an empty catalog."""

    id: str
    username: str
    email: str


class UserUpdated(
    IntegrationEvent,
    name="com.clonespotify.accounts.users.integration.user-profile-updated",
    version=1,
    key="id",
    source=SOURCE,
):
    """A user changed name or e-mail. Not called `user-updated`: the article gave that name to the sign-up."""

    id: str
    username: str
    email: str


class UserDeleted(
    IntegrationEvent,
    name="com.clonespotify.accounts.users.integration.user-deleted",
    version=1,
    key="id",
    source=SOURCE,
):
    """The account is gone; whoever keeps something of this user removes it."""

    id: str


NEST_NAMES: Mapping[type[IntegrationEvent], str] = {UserCreated: _ARTICLE_USER_CREATED}
"""The names under which a NestJS listener of the article hears these events over Pub/Sub."""
