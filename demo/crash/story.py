"""The outage, step by step. What is claimed is read where anybody could read it: the health ports, `cauce`, the database."""

import asyncio
import json
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
from cauce.dev.system import DevSystem

from demo.broker import Broker
from demo.crash.mail import MAIL_SERVER_IS_AWAY
from demo.crash.services import SERVICES, Services
from demo.polling import ask_until
from demo.terminal import Terminal

__all__ = ["Story"]

T = TypeVar("T")

OUTAGE_S = 5.0
LIMIT_S = 20.0
FEW_LINES = 20
"""Fewer than so many log lines of both services together, from the kill to the end."""


class Story:
    """Played in order; every claim becomes a row of the table, and the story continues when one is wrong."""

    def __init__(self, system: DevSystem, terminal: Terminal) -> None:
        self._system = system
        self._terminal = terminal
        self._broker = Broker(system.environment)
        self._away = system.project.root / MAIL_SERVER_IS_AWAY
        self._http = httpx.AsyncClient(timeout=5.0)
        self._services = Services(system, self._http)
        self._pids = {name: self._services.pid(name) for name in SERVICES}

    async def play(self) -> bool:
        async with self._http:
            await self._one_dead_and_one_in_retry()
            try:
                await self._one_waiting()
                marks = {name: self._services.lines_so_far(name) for name in SERVICES}
                await self._killed()
            finally:
                self._services.signal(
                    "mail", signal.SIGCONT
                )  # also when somebody presses Ctrl-C: a frozen process does not end
            await self._back_and_empty()
            await self._what_became_of_them()
            self._few_lines(marks)
            self._no_restart()
        return self._terminal.table()

    async def _one_dead_and_one_in_retry(self) -> None:
        self._terminal.heading("1 · Two orders: one to no address, one while the mail server is away")
        self._away.touch()
        await self._order("1001", "nobody")
        await self._order("1002", "ana@example.com")
        status = await self._until(self._services.confirming, lambda one: (one["dead"], one["failing"]) == (1, 1))
        await self._show("status", "mail")
        seen = f"{status['dead']} dead, {status['failing']} failing, next try in {status['next_try_in_s'] or 0:.1f} s"
        self._terminal.row("before: one is dead, one is in retry", seen, (status["dead"], status["failing"]) == (1, 1))

    async def _one_waiting(self) -> None:
        self._terminal.heading("2 · A third order, which reaches Valkey and nobody else: mail is frozen (SIGSTOP)")
        self._services.signal("mail", signal.SIGSTOP)
        # The read it had sent is still with Valkey and would be given the event: it ends by itself within a second.
        await self._until(self._broker.blocked_reads, lambda count: count == 0)
        await self._order("1003", "bob@example.com")
        waiting = await self._until(lambda: self._broker.undelivered("shop"), bool)
        for one in map(_shown, waiting) if waiting else ["nothing"]:
            self._terminal.step(f"in Valkey, and given to nobody: {one}")
        self._terminal.row(
            "before: one waits in Valkey, delivered to nobody", f"{len(waiting)} undelivered", len(waiting) == 1
        )

    async def _killed(self) -> None:
        self._terminal.heading("3 · kill -9 valkey")
        await self._system.kill("valkey")
        killed_at = time.monotonic()
        shutil.rmtree(self._system.servers["valkey"].folder / "data")
        self._terminal.step(
            "Valkey is dead and its data folder deleted, so it has nothing to come back with. mail wakes up (SIGCONT)."
        )
        self._services.signal("mail", signal.SIGCONT)
        for name in SERVICES:
            reason = await self._until(lambda name=name: self._services.not_ready(name), bool)
            self._terminal.step(f"{name}: GET /health/ready → {reason}")
        await asyncio.sleep(max(0.0, OUTAGE_S - (time.monotonic() - killed_at)))

    async def _back_and_empty(self) -> None:
        self._terminal.heading(f"4 · After {OUTAGE_S:g} s Valkey comes back, empty. The mail server is back, too")
        self._away.unlink()
        await self._system.start("valkey")
        again = await self._until(self._services.resent, lambda count: count >= 3)
        self._terminal.step(
            f"shop asks Valkey for what it had confirmed, misses {again} events, and sends them again from its outbox"
        )
        self._terminal.row("Valkey had lost all three, shop sends them again", f"{again} sent again", again == 3)

    async def _what_became_of_them(self) -> None:
        self._terminal.heading("5 · What became of the three")
        status = await self._until(self._services.confirming, lambda one: one["handled"] == 2 and not one["waiting"])
        for name in SERVICES:
            await self._until(lambda name=name: self._services.not_ready(name), lambda reason: not reason)
        await self._show("status", "mail")
        await self._show("dead", "list", "mail")
        confirmed = await self._services.confirmations()
        seen = f"{status['handled']} handled, {status['waiting']} still waiting"
        self._terminal.row(
            "handled: 2, the one in retry and the one that waited",
            seen,
            (status["handled"], status["waiting"]) == (2, 0),
        )
        self._terminal.row(
            "each of the two had its effect once", f"confirmed: {', '.join(confirmed)}", confirmed == ["1002", "1003"]
        )
        self._terminal.row("dead: 1, still shown", f"{status['dead']} dead", status["dead"] == 1)

    def _few_lines(self, marks: dict[str, int]) -> None:
        said = {name: self._services.lines_since(name, marks[name]) for name in SERVICES}
        self._terminal.heading("6 · All that both services wrote to their logs about it")
        for name, lines in said.items():
            for line in lines:
                self._terminal.quote(f"{name:<4} │ {line}")
        count = sum(map(len, said.values()))
        self._terminal.row(f"log: fewer than {FEW_LINES} lines", f"{count} lines", count < FEW_LINES)

    def _no_restart(self) -> None:
        same = [name for name in SERVICES if self._services.pid(name) == self._pids[name]]
        running = [name for name in same if self._services.running(name)]
        seen = ", ".join(f"{name} is still pid {self._pids[name]}" for name in running)
        self._terminal.row("no service was restarted", seen or "both were", running == list(SERVICES))

    async def _order(self, order: str, email: str) -> None:
        path = f"/orders/{order}/{email}"
        self._terminal.step(f"POST {path} → {await self._services.post(path)}")

    async def _show(self, *words: str) -> None:
        """The command as an operator types it, and what it prints."""
        self._terminal.step(f"$ cauce {' '.join(words)}")
        self._terminal.quote(await self._services.command(*words))

    async def _until(self, ask: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
        return await ask_until(ask, good, limit_s=LIMIT_S)


def _shown(event: str) -> str:
    """The name and the payload of a CloudEvent."""
    parsed = json.loads(event)
    return f"{parsed['type']} {json.dumps(parsed['data'], ensure_ascii=False, separators=(',', ':'))}"
