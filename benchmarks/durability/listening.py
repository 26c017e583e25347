"""What a process of its own tells the benchmark, and what it is told: one line each."""

import asyncio
import sys
import time

__all__ = ["Listening", "say", "told"]


class Listening:
    """Reports of the consumer's process: when its first event was handled, and when the last one was committed."""

    def __init__(self, count: int) -> None:
        self.first = 0.0
        self._left = count
        self._all = asyncio.Event()

    def called(self) -> None:
        self.first = self.first or time.monotonic()

    def committed(self, how_many: int = 1) -> None:
        self._left -= how_many
        if self._left <= 0:
            self._all.set()

    async def finished(self) -> None:
        await self._all.wait()
        say("done", self.first, time.monotonic())


def say(*words: object) -> None:
    print(*words, flush=True)


async def told(word: str) -> None:
    """Wait for this line from the parent process."""
    line = await asyncio.to_thread(sys.stdin.readline)
    if line.strip() != word:
        raise RuntimeError(f"expected {word!r} from the benchmark, got {line!r}")
