"""Statements that go to the database together with COMMIT, where the driver's connection can take them along.

`psycopg_connection` and `asyncpg_connection` are the connections that can; `create_engine` makes engines of them. On any
other engine, and wherever no COMMIT of its own will follow, the statement is for its caller to execute.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, TextClause, event
from sqlalchemy.orm import Session

__all__ = ["PARAMETER", "TakesAlong", "commits_by_itself", "forget_between_users", "take_along", "taking_along"]

PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")
"""How a statement of ours names a value."""


class TakesAlong(Protocol):
    """A driver's connection whose COMMIT takes statements along. Their values are named as in SQLAlchemy's `text`."""

    @property
    def carries(self) -> bool:
        """Whether there is something that the next COMMIT takes along."""
        ...

    def carry(self, statement: str, values: Mapping[str, Any]) -> bool:
        """Take it along with the next COMMIT; a rollback forgets it. False: it is to be executed instead."""
        ...

    def drop_carried(self) -> None: ...

    async def commit_with_carried(self) -> str:
        """Execute what is carried and COMMIT, in one trip: the answer to the COMMIT, or the first error. Neither leaves a
        transaction open."""
        ...


def taking_along(pooled: Any) -> TakesAlong | None:
    """The driver's connection under one from SQLAlchemy's pool, if it can."""
    driver = pooled.driver_connection
    return driver if hasattr(driver, "commit_with_carried") else None


def commits_by_itself(session: Session) -> bool:
    """Whether a commit of the session is one COMMIT of a connection that is its own. One that was given a connection may
    only release a savepoint, and one with two phases prepares first."""
    return not session.twophase and not isinstance(session.bind, Connection)


def take_along(connection: Connection, clause: TextClause, values: Mapping[str, Any]) -> bool:
    """Whether the statement will be executed by the COMMIT of the connection's transaction."""
    driver = taking_along(connection.connection)
    return driver is not None and driver.carry(clause.text, values)


def forget_between_users(engine: Engine) -> None:
    """Whatever became of a transaction: what it carried is not for the next one on the same connection."""
    event.listen(engine, "checkin", _forget)


def _forget(connection: Any, _record: object) -> None:
    if connection is not None and (driver := taking_along(connection)) is not None:
        driver.drop_carried()
