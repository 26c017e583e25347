"""Under which names a service's listeners have their past in its database: the values that cross the port."""

from collections.abc import Collection, Sequence

from msgspec import Struct

__all__ = ["Identity", "Joined", "ListenerInCode"]


class ListenerInCode(Struct, frozen=True, kw_only=True):
    """A durable listener, as the code that is starting knows it."""

    name: str
    earlier_names: Sequence[str]
    events: Collection[str]
    """The names, earlier ones too, of the events it listens to."""


class Joined(Struct, frozen=True, kw_only=True):
    """A listener that is new to a service that has run before: what others had handled before is not for it."""

    at: float
    """When it was first registered, by the database's clock."""
    age_s: float
    others: Sequence[str]
    """The consumers that the service had when it joined, also those that are gone."""


class Identity(Struct, frozen=True, kw_only=True):
    """The consumer name under which a listener's past is kept; it does not change when the listener is renamed."""

    consumer: str
    joined: Joined | None
