"""The names of what we keep on a Redis server. The braces keep a topic's keys on one node of a cluster."""

from cauce.ports.lanes import Lane

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

    def all_of(self, topic: str) -> str:
        """A pattern for all of them."""
        return self._of(topic, "*")

    def _of(self, topic: str, what: str) -> str:
        return f"{self.prefix}:{{{topic}}}:{what}"
