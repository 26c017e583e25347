"""What is no Exception goes through: SystemExit ends the program that the listener is in."""

from collections.abc import Awaitable
from unittest.mock import patch

from cauce.listeners import calling, containment


def plant() -> None:
    async def contained(work: Awaitable[object], who: str) -> None:
        await work

    for module in (calling, containment):
        patch.object(module, "contained", contained).start()
