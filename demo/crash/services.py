"""The two services as anybody can see them: over HTTP, by the command `cauce`, in the database, in their logs."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
from cauce.dev.system import DevSystem
from cauce.stores.sqlalchemy import create_engine
from sqlalchemy import text

__all__ = ["SERVICES", "Services"]

SERVICES = ("shop", "mail")
LIMIT_S = 20.0


class Services:
    """Shop and mail, running in `system`; `http` is the caller's to close."""

    def __init__(self, system: DevSystem, http: httpx.AsyncClient) -> None:
        self._system = system
        self._http = http

    async def post(self, path: str) -> int:
        """The status with which the shop answers."""
        return (await self._http.post(f"{self._system.services['shop'].address}{path}")).status_code

    async def confirming(self) -> dict[str, Any]:
        """The figures of mail's one listener, as `cauce status` has them."""
        status = (await self._http.get(self._health("mail", "/status"))).json()
        return status["listeners"][0]

    async def not_ready(self, name: str) -> str:
        """Why a service is not ready; empty if it is."""
        answer = await self._http.get(self._health(name, "/health/ready"))
        missing: dict[str, str] = answer.json()["not_ready"]
        return f"{answer.status_code} {'; '.join(missing.values())}" if missing else ""

    async def resent(self) -> int:
        """How many events the shop sent once more."""
        return int((await self._http.get(self._health("shop", "/counters"))).json().get("refed", 0))

    async def confirmations(self) -> list[str]:
        """The orders that mail has confirmed, in its database."""
        engine = create_engine(self._system.environment["MAIL_DATABASE_URL"])
        async with engine.connect() as connection:
            rows = await connection.execute(text("SELECT order_no FROM confirmation ORDER BY order_no"))
            found = list(rows.scalars())
        await engine.dispose()
        return found

    async def command(self, *words: str) -> str:
        """The output of `cauce` with these words."""
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
        return output.decode().rstrip()

    def lines_so_far(self, name: str) -> int:
        return self._system.services[name].said

    def lines_since(self, name: str, mark: int) -> list[str]:
        """The log lines after the first `mark` ones."""
        service = self._system.services[name]
        lines = list(service.lines)
        return [re.sub(r"\s+", " ", line) for line in lines[len(lines) - (service.said - mark) :]]

    def pid(self, name: str) -> int | None:
        return self._system.services[name].pid

    def running(self, name: str) -> bool:
        return self._system.services[name].running

    def signal(self, name: str, number: signal.Signals) -> None:
        pid = self.pid(name)
        if pid is not None:
            os.kill(pid, number)

    def _health(self, name: str, page: str) -> str:
        return f"http://127.0.0.1:{self._system.environment[f'{name.upper()}_HEALTH_PORT']}{page}"
