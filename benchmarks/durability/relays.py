"""Goal 11: from the outbox to the stream, by every way."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from durability import by_hand, with_cauce, with_faststream
from durability.peers import missing
from durability.place import Place

__all__ = ["relays"]


def relays(place: Place, folder: Path) -> dict[str, Callable[[int], Awaitable[float]]]:
    """Rows a second of so many rows, by the name of the way."""
    ways: dict[str, Callable[[int], Awaitable[float]]] = {
        "Cauce, un-keyed": lambda count: with_cauce.relay(place, count, keyed=False),
        "Cauce, keyed": lambda count: with_cauce.relay(place, count, keyed=True),
        "by hand, deleting": lambda count: by_hand.relay(place, count),
        "Cauce on SQLite": lambda count: with_cauce.relay_sqlite(folder, place, count),
        "Cauce on SQLite, 30 kept for each": lambda count: with_cauce.relay_sqlite(folder, place, count, 30 * count),
        "by hand on SQLite": lambda count: by_hand.relay_sqlite(folder, place, count),
    }
    if not missing():
        ways["faststream-outbox"] = lambda count: with_faststream.relay(place, max(200, count // 20), tuned=False)
        ways["faststream-outbox, tuned"] = lambda count: with_faststream.relay(place, max(200, count // 10), tuned=True)
    return ways
