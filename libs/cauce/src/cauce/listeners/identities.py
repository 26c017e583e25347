"""The consumer names of a service's listeners: under which each has its past, as its database said at the last start."""

from collections.abc import Iterable, Mapping, Sequence

from cauce.listeners.listener import Listener, consumer_name
from cauce.ports.registration import Identity, Joined

__all__ = ["Identities"]


class Identities:
    """Consumer names, by listener and back. Until the database was asked, each listener has the name in its code."""

    def __init__(self, service: str, listeners: Sequence[Listener]) -> None:
        self._service = service
        self._consumers: dict[str, str] = {}
        self.by_consumer: dict[str, Listener] = {
            f"{service}/{name}": listener
            for listener in listeners
            for name in (*listener.registration.earlier_names, listener.name)
        }
        """Every listener by each of its consumer names: a row may have been written under any of them."""
        self._listeners = {listener.name: listener for listener in listeners}
        self.joined: dict[str, Joined] = {}
        """Of the consumers that are new to a service that has run before."""

    def adopt(self, found: Mapping[str, Identity], *, remembered_s: float) -> None:
        """Use what the database said, by name of the listener. `remembered_s`: for how long the inbox knows ids."""
        for name, identity in found.items():
            self._consumers[name] = identity.consumer
            self.by_consumer[identity.consumer] = self._listeners[name]
        # Afterwards nothing is left in the inbox that it would have to be spared.
        self.joined.clear()
        self.joined.update(
            (one.consumer, one.joined)
            for one in found.values()
            if one.joined is not None and one.joined.age_s <= remembered_s
        )

    def consumer(self, listener: Listener) -> str:
        return self._consumers.get(listener.name) or consumer_name(self._service, listener)

    def consumers(self, listeners: Iterable[Listener]) -> list[str]:
        return [self.consumer(one) for one in listeners]
