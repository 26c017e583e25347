"""The names of what we keep on a Redis server."""

from cauce.ports.lanes import Lane
from cauce.settings.broker_rights import key_of_topic

__all__ = ["CONSUMER", "FIELD", "StreamKeys"]

FIELD = b"e"
"""The one field of an entry: the event as CloudEvents JSON."""

CONSUMER = "lane"
"""The name of every reader of ours in its service's group, see `group_reading`."""


class StreamKeys:
    """Keys of the system that `prefix` names."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def stream(self, topic: str, lane: Lane) -> str:
        return self._of(topic, str(lane))

    def groups(self, topic: str) -> str:
        """A hash: every registered group, and the id it began after."""
        return self._of(topic, "groups")

    def databases(self, topic: str) -> str:
        """A hash: for every service that hears the topic or sends to it, the incarnation of its database."""
        return self._of(topic, "databases")

    def trimmed(self, topic: str) -> str:
        """A hash: for every lane, the id below which entries were trimmed on purpose."""
        return self._of(topic, "trimmed")

    def _of(self, topic: str, what: str) -> str:
        return key_of_topic(self.prefix, topic, what)
