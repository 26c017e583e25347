"""The outage, step by step. What is claimed is read where anybody could read it: the health ports, `cauce`, the database."""

import asyncio
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from cauce import Envelope
from cauce.dev.system import DevSystem
from cauce.formats.cloudevents import from_json
from cauce.ports.lanes import LANES, Lane
from cauce.stores.sqlalchemy import create_engine
from cauce.transports.redis.stream_keys import FIELD, StreamKeys
from msgspec import Raw
from redis.asyncio import Redis
from sqlalchemy import text

from demo.crash.mail import MAIL_SERVER_IS_AWAY
from demo.telling import Seen, Telling

__all__ = ["BrokerStatus"]

T = TypeVar("T")

SERVICES = ("shop", "mail")
OUTAGE_S = 5.0
LIMIT_S = 20.0
FEW_LINES = 20
"""Fewer than so many log lines of both services together, from the kill to the end."""


class BrokerStatus:
    """Told in order; every claim becomes a row of the table, and the story goes on when one is wrong."""

    def __init__(self, system: DevSystem, telling: Telling) -> None:
        self._system = system
        self._tell = telling
        self._rows: list[Seen] = []
        self._away = system.project.root / MAIL_SERVER_IS_AWAY
        self._http = httpx.AsyncClient(timeout=5.0)
        self._pids = {name: system.services[name].pid for name in SERVICES}

    async def play(self) -> bool:
        async with self._http:
            await self._one_dead_and_one_in_retry()
            try:
                await self._one_waiting()
                marks = {name: self._system.services[name].said for name in SERVICES}
                await self._killed()
            finally:
                self._signal("mail", signal.SIGCONT)  # also when somebody presses Ctrl-C: a frozen process does not end
            await self._back_and_empty()
            await self._what_became_of_them()
            self._few_lines(marks)
            self._no_restart()
        self._tell.table(self._rows)
        return all(row.ok for row in self._rows)

    async def _one_dead_and_one_in_retry(self) -> None:
        self._tell.heading("1 · Two orders: one to no address, one while the mail server is away")
        self._away.touch()
        await self._order("1001", "nobody")
        await self._order("1002", "ana@example.com")
        status = await self._until(self._confirm, lambda one: (one["dead"], one["failing"]) == (1, 1))
        await self._show("status", "mail")
        seen = f"{status['dead']} dead, {status['failing']} failing, next try in {status['next_try_in_s'] or 0:.1f} s"
        self._row("before: one is dead, one is in retry", seen, (status["dead"], status["failing"]) == (1, 1))

    async def _one_waiting(self) -> None:
        self._tell.heading("2 · A third order, which reaches Valkey and nobody else: mail is frozen (SIGSTOP)")
        self._signal("mail", signal.SIGSTOP)
        # The read it had sent is still with Valkey and would be given the event: it ends by itself within a second.
        await self._until(self._blocked_reads, lambda count: count == 0)
        await self._order("1003", "bob@example.com")
        waiting = await self._until(self._undelivered, bool)
        for one in waiting or ["nothing"]:
            self._tell.step(f"in Valkey, and given to nobody: {one}")
        self._row("before: one waits in Valkey, delivered to nobody", f"{len(waiting)} undelivered", len(waiting) == 1)

    async def _killed(self) -> None:
        self._tell.heading("3 · kill -9 valkey")
        await self._system.kill("valkey")
        killed_at = time.monotonic()
        shutil.rmtree(self._system.servers["valkey"].folder / "data")
        self._tell.step(
            "Valkey is dead and its data folder deleted, so it has nothing to come back with. mail wakes up (SIGCONT)."
        )
        self._signal("mail", signal.SIGCONT)
        for name in SERVICES:
            reason = await self._until(lambda name=name: self._not_ready(name), bool)
            self._tell.step(f"{name}: GET /health/ready → {reason}")
        await asyncio.sleep(max(0.0, OUTAGE_S - (time.monotonic() - killed_at)))

    async def _back_and_empty(self) -> None:
        self._tell.heading(f"4 · After {OUTAGE_S:g} s Valkey comes back, empty. The mail server is back, too")
        self._away.unlink()
        await self._system.start("valkey")
        again = await self._until(self._sent_again, lambda count: count >= 3)
        self._tell.step(
            f"shop asks Valkey for what it had confirmed, misses {again} events, and sends them again from its outbox"
        )
        self._row("Valkey had lost all three, shop sends them again", f"{again} sent again", again == 3)

    async def _what_became_of_them(self) -> None:
        self._tell.heading("5 · What became of the three")
        status = await self._until(self._confirm, lambda one: one["handled"] == 2 and not one["waiting"])
        for name in SERVICES:
            await self._until(lambda name=name: self._not_ready(name), lambda reason: not reason)
        await self._show("status", "mail")
        await self._show("dead", "list", "mail")
        confirmed = await self._confirmations()
        seen = f"{status['handled']} handled, {status['waiting']} still waiting"
        self._row(
            "handled: 2, the one in retry and the one that waited",
            seen,
            (status["handled"], status["waiting"]) == (2, 0),
        )
        self._row(
            "each of the two had its effect once", f"confirmed: {', '.join(confirmed)}", confirmed == ["1002", "1003"]
        )
        self._row("dead: 1, still shown", f"{status['dead']} dead", status["dead"] == 1)

    def _few_lines(self, marks: dict[str, int]) -> None:
        said = {name: self._since(name, marks[name]) for name in SERVICES}
        self._tell.heading("6 · All that both services wrote to their logs about it")
        for name, lines in said.items():
            for line in lines:
                self._tell.quote(f"{name:<4} │ {line}")
        count = sum(map(len, said.values()))
        self._row(f"log: fewer than {FEW_LINES} lines", f"{count} lines", count < FEW_LINES)

    def _no_restart(self) -> None:
        same = [name for name in SERVICES if self._system.services[name].pid == self._pids[name]]
        running = [name for name in same if self._system.services[name].running]
        seen = ", ".join(f"{name} is still pid {self._pids[name]}" for name in running)
        self._row("no service was restarted", seen or "both were", running == list(SERVICES))

    # What anybody could look at

    async def _order(self, order: str, email: str) -> None:
        path = f"/orders/{order}/{email}"
        answer = await self._http.post(f"{self._system.services['shop'].address}{path}")
        self._tell.step(f"POST {path} → {answer.status_code}")

    async def _confirm(self) -> dict[str, Any]:
        """The numbers of mail's one listener, as `cauce status` has them."""
        status = (await self._http.get(self._health("mail", "/status"))).json()
        return status["listeners"][0]

    async def _not_ready(self, name: str) -> str:
        """Why a service is not ready; empty if it is."""
        answer = await self._http.get(self._health(name, "/health/ready"))
        missing: dict[str, str] = answer.json()["not_ready"]
        return f"{answer.status_code} {'; '.join(missing.values())}" if missing else ""

    async def _sent_again(self) -> int:
        return int((await self._http.get(self._health("shop", "/counters"))).json().get("refed", 0))

    async def _blocked_reads(self) -> int:
        async with self._redis() as redis:
            return sum("b" in client["flags"] for client in await redis.client_list())

    async def _undelivered(self) -> list[str]:
        """The events in Valkey that were given to no consumer."""
        found: list[str] = []
        async with self._redis() as redis:
            for lane in range(LANES):
                stream = StreamKeys("cauce").stream("shop", Lane(lane))
                for group in await redis.xinfo_groups(stream) if await redis.exists(stream) else ():
                    entries = await redis.xrange(stream, min=b"(" + group["last-delivered-id"])
                    found += [_shown(from_json(fields[FIELD])) for _, fields in entries]
        return found

    async def _confirmations(self) -> list[str]:
        engine = create_engine(self._system.environment["MAIL_DATABASE_URL"])
        async with engine.connect() as connection:
            rows = await connection.execute(text("SELECT order_no FROM confirmation ORDER BY order_no"))
            found = list(rows.scalars())
        await engine.dispose()
        return found

    def _redis(self) -> Any:
        """A client of the broker; its stubs leave the shape of answers open."""
        environment = self._system.environment
        return Redis(
            host=environment["REDIS_HOST"], port=int(environment["REDIS_PORT"]), password=environment["REDIS_PASS"]
        )

    async def _show(self, *words: str) -> None:
        """The command as a person types it, and what it prints."""
        self._tell.step(f"$ cauce {' '.join(words)}")
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("cauce")),
            *words,
            cwd=self._system.project.root,
            env=self._system.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(LIMIT_S):
            output, _ = await process.communicate()
        self._tell.quote(output.decode().rstrip())

    def _health(self, name: str, page: str) -> str:
        return f"http://127.0.0.1:{self._system.environment[f'{name.upper()}_HEALTH_PORT']}{page}"

    def _since(self, name: str, mark: int) -> list[str]:
        service = self._system.services[name]
        lines = list(service.lines)
        return [re.sub(r"\s+", " ", line) for line in lines[len(lines) - (service.said - mark) :]]

    def _signal(self, name: str, number: signal.Signals) -> None:
        pid = self._system.services[name].pid
        if pid is not None:
            os.kill(pid, number)

    async def _until(self, ask: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
        """Ask again until the answer is good; the last answer after LIMIT_S."""
        deadline = time.monotonic() + LIMIT_S
        answer = await ask()
        while time.monotonic() < deadline:
            if good(answer):
                break
            await asyncio.sleep(0.1)
            answer = await ask()
        return answer

    def _row(self, expected: str, seen: str, ok: bool) -> None:
        self._rows.append(Seen(expected, seen, ok))


def _shown(envelope: Envelope) -> str:
    payload = envelope.payload
    return f"{envelope.name} {bytes(payload).decode() if isinstance(payload, Raw) else payload}"
