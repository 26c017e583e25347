"""Following a SQLAlchemy session: which of the events published in it survive, and their rows in its transaction."""

from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

from cauce.levels import Levels
from cauce.store import Outbound
from cauce.stores.sql_journal import write_outgoing

__all__ = ["follow", "joins_an_outer_transaction", "write_before_commit"]


def write_before_commit(session: Session, levels: Levels[Any], outgoing: Outbound) -> None:
    """The rows of what was published go into the same transaction, at its end: keys are locked for a moment only."""

    def before_commit(session: Session) -> None:
        if session.in_nested_transaction():
            return  # a savepoint's release
        rows = outgoing(levels.surviving())
        if rows:
            write_outgoing(session.connection(), rows)

    event.listen(session, "before_commit", before_commit)


def follow(session: Session, levels: Levels[Any]) -> None:
    """Follow the session's transactions, including savepoints the user's code makes by itself."""
    committed: set[int] = set()

    def created(_session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            levels.opened(id(transaction))

    def after_commit(session: Session) -> None:
        # Also fired when a savepoint is released, so note which of them it was.
        current = session.get_nested_transaction() or session.get_transaction()
        committed.add(id(current))

    def ended(_session: Session, transaction: SessionTransaction) -> None:
        kept = id(transaction) in committed
        committed.discard(id(transaction))
        if transaction.nested:
            levels.ended(id(transaction), kept=kept)
        elif transaction.parent is None:
            levels.transaction_ended(committed=kept)

    event.listen(session, "after_transaction_create", created)
    event.listen(session, "after_commit", after_commit)
    event.listen(session, "after_transaction_end", ended)


def joins_an_outer_transaction(session: Session) -> bool:
    """Whether a commit of this session would only release a savepoint of somebody's connection."""
    bind = session.bind
    return isinstance(bind, Connection) and bind.in_transaction()
