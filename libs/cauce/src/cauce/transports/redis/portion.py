"""How many entries are asked for in one read, whatever their size."""

__all__ = ["Portion"]

_TOO_LONG_S = 1.0
"""What takes longer to come is too much at once: nothing of it is handled before the last byte is there."""
_QUICK_S = 0.25
_GROW_AFTER = 8
"""So many quick reads come before a larger one: a server that ends the connection at large answers is not asked for
one again and again."""


class Portion:
    """Half as many after a read that failed or took long, and twice as many again after some that were quick.

    It outlives connections: what broke one is not asked for in the same size on the next.
    """

    def __init__(self, most: int) -> None:
        self.entries = self._most = most
        self._quick = 0

    def failed(self) -> None:
        self._quick, self.entries = 0, max(1, self.entries // 2)

    def came(self, *, took_s: float) -> None:
        """Entries were read, in `took_s`."""
        if took_s > _TOO_LONG_S:
            self.failed()
        elif took_s < _QUICK_S:
            self._quick += 1
            if self._quick >= _GROW_AFTER:
                self._quick, self.entries = 0, min(self._most, 2 * self.entries)
