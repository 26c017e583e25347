"""What the operating system, PostgreSQL and Valkey count of each service of a running system."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis
from cauce.dev.system import DevSystem
from sqlalchemy import make_url

__all__ = ["Meters", "Spent"]

_OUR_COMMITS = 2
"""Of one look in the database that it is made from: a connection is a transaction before it is asked anything."""


@dataclass(frozen=True, slots=True)
class Spent:
    """By one service, since its start. `commits`: None where the database does not count them."""

    processor_s: float
    commits: int | None
    commands: int

    def since(self, before: "Spent") -> "Spent":
        """What was spent between two looks."""
        return Spent(
            self.processor_s - before.processor_s,
            None if self.commits is None or before.commits is None else self.commits - before.commits - _OUR_COMMITS,
            self.commands - before.commands,
        )


class Meters:
    """Reads what the operating system, PostgreSQL and Valkey count of each service."""

    def __init__(self, system: DevSystem) -> None:
        self._services = system.services
        project = system.project
        self._databases = {
            name: make_url(system.variables[spec.database]) for name, spec in project.services.items() if spec.database
        }
        self._users = {
            name: make_url(system.variables[spec.broker]).username
            for name, spec in project.services.items()
            if spec.broker
        }
        self._broker: Any = redis.Redis(
            host=system.variables["REDIS_HOST"],
            port=int(system.variables["REDIS_PORT"]),
            password=system.variables["REDIS_PASS"],
            decode_responses=True,
        )

    def read(self) -> Mapping[str, Spent]:
        commits, commands = self._commits(), self._commands()
        return {
            name: Spent(_processor_s(service.pid or 0), commits.get(name), commands.get(name, 0))
            for name, service in self._services.items()
        }

    def _commits(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for name, url in self._databases.items():
            if url.get_backend_name() != "postgresql":
                continue
            plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(plain, autocommit=True) as connection:
                row = connection.execute(
                    "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
                ).fetchone()
            assert row is not None
            found[name] = int(row[0])
        return found

    def _commands(self) -> Mapping[str, int]:
        """Of the connections that are there: those of an idle service stay."""
        clients = self._broker.client_list()
        return {
            name: sum(int(one["tot-cmds"]) for one in clients if one["user"] == user)
            for name, user in self._users.items()
        }


def _processor_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
