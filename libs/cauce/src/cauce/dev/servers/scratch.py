"""Databases for single tests on one running PostgreSQL."""

from cauce.dev.servers.postgres import PostgresServer

__all__ = ["ScratchDatabases"]

_ROLE = "scratch"


class ScratchDatabases:
    """Makes fresh, empty databases and removes them together."""

    def __init__(self, server: PostgresServer, *, prefix: str) -> None:
        """`prefix` keeps the names of several of these apart: a-z, 0-9 and _."""
        self.server = server
        self._prefix = prefix
        self._names: list[str] = []

    def database(self) -> str:
        """The `postgresql+psycopg://…` URL of a database that nobody has used before."""
        name = f"{self._prefix}_{len(self._names) + 1}"
        url = self.server.create_database(name, role=_ROLE)
        self._names.append(name)
        return url

    def drop(self) -> None:
        """Remove them all, whoever is still connected."""
        while self._names:
            self.server.drop_database(self._names.pop())
