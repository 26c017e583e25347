"""Many generated requests through several connections."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from testsupport.hostile_requests.connection import Connection
from testsupport.hostile_requests.generator import requests
from testsupport.hostile_requests.request import Request
from testsupport.hostile_requests.verdict import whats_wrong

__all__ = ["AT_ONCE", "Outcome", "besiege"]

AT_ONCE = 4
"""Connections. They ask for the same users and catalogs at the same time."""

_SHOWN = 5


@dataclass
class Outcome:
    """What became of the requests, by kind and status; 0 is a closed connection."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    wrong: list[str] = field(default_factory=list[str])
    slowest_s: float = 0.0
    slowest: Request | None = None

    @property
    def statuses(self) -> Counter[int]:
        by_status: Counter[int] = Counter()
        for (_, status), count in self.answers.items():
            by_status[status] += count
        return by_status

    def __str__(self) -> str:
        return "\n\n".join([f"{len(self.wrong)} answers are wrong", *self.wrong[:_SHOWN]])


async def besiege(
    service: str, port: int, *, seed: int, count: int, given: Iterable[Iterable[Request]] | None = None
) -> Outcome:
    """Send `count` requests, AT_ONCE of them at any time. Two runs of one seed send the same, in about the same order."""
    outcome = Outcome()

    async def lane(mine: Iterable[Request], share: int) -> None:
        async with Connection("127.0.0.1", port) as connection:
            for request, _ in zip(mine, range(share), strict=False):
                answer = await connection.ask(request)
                outcome.answers[request.kind, 0 if answer is None else answer.status] += 1
                if answer is not None and answer.seconds > outcome.slowest_s:
                    outcome.slowest_s, outcome.slowest = answer.seconds, request
                if wrong := whats_wrong(request, answer):
                    outcome.wrong.append(f"{wrong}\n{request}")

    lanes = given or [requests(service, seed, first=number, step=AT_ONCE) for number in range(AT_ONCE)]
    async with asyncio.TaskGroup() as tasks:
        for number, mine in enumerate(lanes):
            tasks.create_task(lane(mine, (count + AT_ONCE - 1 - number) // AT_ONCE))
    return outcome
