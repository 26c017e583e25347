"""The keys of a transaction are counted in whatever order they come, and so are their rows locked."""

import random
from collections.abc import Iterable
from typing import Any

from cauce.stores import sql_journal


def plant() -> None:
    def shuffled(things: Iterable[Any]) -> list[Any]:
        mixed = list(things)
        random.shuffle(mixed)
        return mixed

    sql_journal.__dict__["sorted"] = shuffled
