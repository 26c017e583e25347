"""A pooler between us and PostgreSQL (PgBouncer): it gives each transaction another server process.

A statement that was prepared in one is unknown in the next, or prepared there already by somebody else; both are errors
that no listener has made. A pooler shows itself: the process it names when connecting is not the one that answers.
"""

from typing import Any

from sqlalchemy import Engine, event

from cauce.errors import ConfigurationError

__all__ = ["prepare_nothing_behind_poolers", "refuse_poolers"]

_WHO_ANSWERS = "SELECT pg_backend_pid()"
_NOT_OURS = ("42P05", "26000")
"""A prepared statement that is there already, or is not there."""


def prepare_nothing_behind_poolers(engine: Engine) -> None:
    """Let psycopg prepare nothing on connections that go through a pooler. Costs a round trip for each new connection;
    once is enough."""
    if engine.dialect.driver == "psycopg" and not event.contains(engine, "connect", _prepare_nothing):
        event.listen(engine, "connect", _prepare_nothing)


def refuse_poolers(engine: Engine) -> None:
    """Let an engine over asyncpg, which always prepares, raise ConfigurationError when it connects to a pooler."""
    event.listen(engine, "connect", _refuse)


def _prepare_nothing(connection: Any, _record: object) -> None:
    if hasattr(connection, "run_async"):
        connection.run_async(_prepare_nothing_if_another_answers)


async def _prepare_nothing_if_another_answers(driver: Any) -> None:
    if driver.prepare_threshold is None:
        return
    before = driver.autocommit
    await driver.set_autocommit(True)  # spares BEGIN and ROLLBACK
    cursor = await driver.execute(_WHO_ANSWERS, prepare=False)
    (answers,) = await cursor.fetchone()
    await driver.set_autocommit(before)
    if answers != driver.pgconn.backend_pid:
        driver.prepare_threshold = None


def _refuse(connection: Any, _record: object) -> None:
    if not connection.run_async(_the_one_that_was_named_answers):
        problem = (
            "between this service and PostgreSQL is a pooler such as PgBouncer, and asyncpg prepares statements, which "
            "are not there in the next transaction: use postgresql+psycopg"
        )
        raise ConfigurationError([problem], where="the connection to the database")


async def _the_one_that_was_named_answers(driver: Any) -> bool:
    try:
        return bool(await driver.fetchval(_WHO_ANSWERS) == driver.get_server_pid())
    except Exception as error:
        if getattr(error, "sqlstate", None) in _NOT_OURS:
            return False
        raise
