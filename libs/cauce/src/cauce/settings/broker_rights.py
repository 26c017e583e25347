"""What a service's user may do on a Redis or Valkey server: written once, for `RedisStreams.rights`, `cauce dev` and compose.

Rights are by key and command. Every durable service has a topic of its own name, also one that publishes nothing: its
database is registered there. No scripts, and no commands of the class @dangerous.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["BrokerRights", "key_of_topic"]

_PUBLISHING: Final = "+ping +multi +exec +xadd +xrange +xread +xtrim +xpending +xinfo|stream +xinfo|groups +time +hget +hset +hgetall +hsetnx"
_HEARING: Final = "+ping +xreadgroup +xack +xgroup|create +xpending +xinfo|stream +xinfo|consumers +time +hget +hsetnx"
_PUBSUB: Final = "+ping +publish +subscribe +psubscribe"


def key_of_topic(prefix: str, topic: str, what: str) -> str:
    """The name of what we keep of a topic. The braces keep a topic's keys on one node of a cluster."""
    return f"{prefix}:{{{topic}}}:{what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerRights:
    """Whoever may write to a topic speaks for the service that it belongs to: who writes to one and hears another gets the
    right to hear as a selector, so that it may not write there.

    `channels`: patterns of Pub/Sub channels. They belong to nobody: who may hear one may also speak in it.
    """

    writes: Collection[str] = ()
    hears: Collection[str] = ()
    channels: Collection[str] = ()
    prefix: str = "cauce"

    def words(self, *, selectors: bool = True) -> Sequence[str]:
        """The words after `ACL SETUSER name on >password resetchannels`. `selectors=False` for Redis 6.2, which has none:
        a user that writes to one topic and hears another may write to both there.
        """
        writing = [*self._keys(self.writes), *sorted(_PUBLISHING.split())] if self.writes else []
        hearing = [*self._keys(self.hears), *sorted(_HEARING.split())] if self.hears else []
        pubsub = [*(f"&{one}" for one in sorted(set(self.channels))), *sorted(_PUBSUB.split())] if self.channels else []
        if not (writing and hearing):
            return _each_once(["-@all", *pubsub, *writing, *hearing])
        if selectors:
            return [*_each_once(["-@all", *pubsub, *writing]), f"({' '.join(hearing)})"]
        commands = {*_PUBLISHING.split(), *_HEARING.split()}
        return _each_once(["-@all", *pubsub, *self._keys([*self.writes, *self.hears]), *sorted(commands)])

    def _keys(self, topics: Collection[str]) -> Sequence[str]:
        return [f"~{key_of_topic(self.prefix, topic, '*')}" for topic in sorted(set(topics))]


def _each_once(words: Sequence[str]) -> Sequence[str]:
    return list(dict.fromkeys(words))
