"""One system under test: a broker, two databases, and processes that are killed and paused for real."""

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psycopg
import redis

from testsupport.databases import query
from testsupport.durable import history
from testsupport.durable.checker import Applied, Final, problems
from testsupport.durable.program import Settings
from testsupport.durable.shop import LEDGER
from testsupport.waiting import eventually

__all__ = ["NOT_YET", "ForkServer", "Running", "World"]

T = TypeVar("T")


class ForkServer:
    """Forks test processes; see fork_server.py."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._errors = (folder / "fork-server.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "testsupport.durable.fork_server", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._answer()

    def start(self, environment: dict[str, str], log: Path) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"environment": environment, "log": str(log)}).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._answer()["pid"])

    def exit_code(self, pid: int) -> int | None:
        try:
            return int((self._folder / f"{pid}.exit").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
        self._errors.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 60)
        line = self._process.stdout.readline() if ready else b""
        assert line, (
            f"the fork server is silent; see {self._errors.name}: {Path(self._errors.name).read_text()[-3000:]}"
        )
        return json.loads(line)


class Running:
    """A process of the system under test."""

    def __init__(self, fork_server: ForkServer, settings: Settings, environment: dict[str, str], log: Path) -> None:
        self.settings = settings
        self.log = log
        self._fork_server = fork_server
        self.pid = fork_server.start({**environment, "PROGRAM": msgspec.json.encode(settings).decode()}, log)

    def exit_code(self) -> int | None:
        return self._fork_server.exit_code(self.pid)

    @property
    def alive(self) -> bool:
        return self.exit_code() is None

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.ended()

    def ended(self, *, within_s: float = 60.0) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        eventually(lambda: not self.alive, within_s=within_s, what=f"{self.settings.role} {self.pid} ends")
        code = self.exit_code()
        assert code is not None
        return code

    def stop(self, *, within_s: float = 60.0) -> int:
        self.resume()
        self.terminate()
        return self.ended(within_s=within_s)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def lines(self) -> list[str]:
        return self.said().splitlines()


class World:
    """The system. `shop` and `ledger` are database URLs; processes are started by `producer` and `consumer`."""

    def __init__(
        self,
        fork_server: ForkServer,
        folder: Path,
        *,
        broker: str,
        shop: str,
        ledger: str,
        planted: str = "",
        patience_s: float = 30.0,
    ) -> None:
        """`planted`: a bug of planted/ that all its processes carry. `patience_s`: how long a system in which nothing
        is under way any more may still not have kept its promises."""
        self.broker = broker
        self.shop = shop
        self.ledger = ledger
        self.planted = planted
        self.patience_s = patience_s
        self.folder = folder
        self.history = folder / "history.jsonl"
        self.processes: list[Running] = []
        self.consumers: list[str] = [LEDGER]
        self.planned = 0
        """How many events there must be in the end: as many as the longest plan of a producer that was not asked for each."""
        self._fork_server = fork_server

    # Processes

    def producer(
        self, plan: Sequence[tuple[str | None, str]] | int = 0, *, fault: str = "", **settings: Any
    ) -> Running:
        """A shop that writes the events of `plan` (a number: so many, over ten keys) and relays them."""
        if "port" not in settings:
            self.planned = max(self.planned, len(events(plan)))
        return self._start(
            Settings(role="producer", database=self.shop, redis=self.broker, plan=list(events(plan)), **settings), fault
        )

    def exclusive(
        self, plan: Sequence[tuple[str | None, str]] | int = 0, *, fault: str = "", **settings: Any
    ) -> Running:
        """A shop that writes the events of `plan` for its own durable listeners; there is no broker."""
        return self._start(
            Settings(role="alone", database=self.shop, redis=self.broker, plan=list(events(plan)), **settings), fault
        )

    def consumer(self, *, fault: str = "", **settings: Any) -> Running:
        return self._start(
            Settings(role="consumer", database=settings.pop("database", self.ledger), redis=self.broker, **settings),
            fault,
        )

    def _start(self, settings: Settings, fault: str) -> Running:
        environment = {"HISTORY": str(self.history), "FAULT": fault, "PLANTED": self.planted}
        log = self.folder / f"{settings.role}-{len(self.processes) + 1}.log"
        process = Running(self._fork_server, settings, environment, log)
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in self.processes:
            process.signal(signal.SIGKILL)
        for process in self.processes:
            process.ended()

    # What happened

    def facts(self, what: str | None = None) -> list[dict[str, Any]]:
        return history.read(str(self.history), what)

    def struck(self, point: str = "") -> int:
        """How many faults really happened."""
        return sum(1 for fact in self.facts("fault") if not point or fact["point"] == point)

    # What is there

    def committed(self) -> dict[str, int]:
        """Event id → number, of what the producer has committed so far."""
        with suppress(*NOT_YET):
            return {str(event_id): int(no) for event_id, no in query(self.shop, "SELECT event_id, no FROM biz")}
        return {}

    def applied(self, consumer: str = LEDGER) -> int:
        return _count(self.ledger, "ledger", f"consumer = '{consumer}'")

    def unsent(self) -> int:
        unsent = "SELECT (SELECT count(*) FROM cauce_outbox) + (SELECT count(*) FROM cauce_set_aside)"
        return int(query(self.shop, unsent)[0][0])

    def dead(self) -> list[tuple[str, str, str]]:
        with suppress(*NOT_YET):
            found = query(self.ledger, "SELECT consumer, event_id, reason FROM cauce_dead_letter")
            return [(_short(consumer), str(event_id), str(reason)) for consumer, event_id, reason in found]
        return []

    def waiting(self) -> list[tuple[str, str]]:
        return [
            (_short(consumer), str(event_id))
            for consumer, event_id in query(self.ledger, "SELECT consumer, event_id FROM cauce_waiting")
        ]

    def owners(self, database: str) -> dict[int, str | None]:
        """Who owns each lane."""
        with suppress(*NOT_YET):
            return {int(lane): member for lane, member in query(database, "SELECT lane, member FROM cauce_lane")}
        return {}

    def shares(self, database: str) -> list[int]:
        """How many lanes each process has, the greatest first."""
        return sorted(Counter(owner for owner in self.owners(database).values() if owner).values(), reverse=True)

    def lanes_of(self, database: str, process: Running) -> set[int]:
        """The lanes that `process` owns."""
        return {lane for lane, owner in self.owners(database).items() if owner and f":{process.pid}:" in owner}

    def streams(self) -> list[str]:
        with redis.Redis.from_url(self.broker) as broker:
            return sorted(key.decode() for key in broker.scan_iter(match="*}:*", _type="stream"))

    def copies(self) -> int:
        """How many entries the broker holds, copies counted."""
        with redis.Redis.from_url(self.broker) as broker:
            return sum(broker.xlen(stream) for stream in self.streams())

    def in_groups(self) -> tuple[int, int]:
        """Entries delivered and not acknowledged; entries never delivered."""
        pending = undelivered = 0
        with redis.Redis.from_url(self.broker) as broker:
            for stream in self.streams():
                for group in broker.xinfo_groups(stream):
                    pending += group["pending"]
                    last = group["last-delivered-id"]
                    undelivered += len(broker.xrange(stream, min=b"(" + last, count=1000) or ())
        return pending, undelivered

    def final(self, *, planted: Collection[int] = (), parked: Collection[int] = ()) -> Final:
        # Effects before causes: what is committed meanwhile must not look like a ghost.
        pending, undelivered = self.in_groups()
        dead, waiting = self.dead(), self.waiting()
        rows = query(
            self.ledger, "SELECT consumer, event_id, key, key_seq, incarnation, no FROM ledger ORDER BY position"
        )
        return Final(
            committed=self.committed(),
            ledger=[Applied(*row) for row in rows],
            consumers=tuple(self.consumers),
            unsent=self.unsent(),
            pending=pending,
            undelivered=undelivered,
            waiting=waiting,
            dead=dead,
            planted=frozenset(planted),
            parked=frozenset(parked),
        )

    # Waiting

    def written(self, count: int, *, within_s: float = 90.0) -> None:
        eventually(lambda: _count(self.shop, "biz") >= count, within_s=within_s, what=f"{count} events committed")

    def reached(self, count: int, *, within_s: float = 90.0, consumer: str = LEDGER) -> None:
        eventually(
            lambda: _count(self.ledger, "ledger", f"consumer = '{consumer}'") >= count,
            within_s=within_s,
            what=f"{count} events applied by {consumer}",
        )

    def converges(
        self, *, within_s: float = 90.0, planted: Collection[int] = (), parked: Collection[int] = ()
    ) -> Final:
        """Wait until the promises are kept and everything is quiet; fails with what is wrong, and with the logs."""
        deadline = time.monotonic() + within_s
        before, quiet_since = None, time.monotonic()
        pause_s = 0.05
        while True:
            found = ["the databases or the broker do not answer"]
            with suppress(*NOT_YET):
                final = self.final(planted=planted, parked=parked)
                found = problems(final)
                if not found and len(final.committed) >= self.planned:
                    return final
                found = found or [f"{len(final.committed)} of {self.planned} events are committed"]
                # What is wrong for good need not be waited for.
                if any(word in line for line in found for word in ("doubles", "ghosts", "out of order", "innocents")):
                    deadline = 0.0
                if final != before:
                    before, quiet_since = final, time.monotonic()
                if time.monotonic() - quiet_since > self.patience_s:
                    deadline = 0.0
            if time.monotonic() > deadline:
                raise AssertionError("\n".join(found))
            time.sleep(pause_s)
            pause_s = min(0.3, pause_s * 1.5)

    def last_words(self) -> str:
        """The end of every log, for the report of a test that failed."""
        words: list[str] = []
        for process in self.processes[-8:]:
            words.append(f"── {process.settings.role} {process.pid}, exit {process.exit_code()}")
            words += process.lines()[-25:]
        return "\n".join(words)


NOT_YET = (psycopg.OperationalError, psycopg.errors.UndefinedTable, redis.RedisError, sqlite3.OperationalError)
"""Errors of a question that came too early."""


def events(plan: Sequence[tuple[str | None, str]] | int) -> Sequence[tuple[str | None, str]]:
    return [(f"k{no % 10}", "") for no in range(plan)] if isinstance(plan, int) else plan


def _count(url: str, table: str, where: str = "true") -> int:
    with suppress(*NOT_YET):
        return int(query(url, f"SELECT count(*) FROM {table} WHERE {where}")[0][0])
    return 0


def _short(consumer: str) -> str:
    """`ledger/ledger` → `ledger`: the listener's own name."""
    return consumer.rpartition("/")[2]
