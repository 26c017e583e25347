"""What the readers of a process hear of the server, for its publisher: a server that answers one of them is there."""

import math
import time

__all__ = ["Heard"]


class Heard:
    """Shared by all connections of one RedisStreams."""

    def __init__(self) -> None:
        self._answered_at = -math.inf
        self._lost_a_stream = False

    def answer(self) -> None:
        """A reader was answered just now."""
        self._answered_at = time.monotonic()

    def loss(self) -> None:
        """A stream or a group that was there is gone: the server may have lost all of its data."""
        self._lost_a_stream = True

    def answered_since(self, then: float) -> bool:
        return self._answered_at >= then

    def lost_a_stream(self) -> bool:
        """Whether a loss was noticed since this was asked last."""
        lost, self._lost_a_stream = self._lost_a_stream, False
        return lost
