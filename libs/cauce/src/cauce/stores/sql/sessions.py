"""A SQLAlchemy session followed: its surviving events are known, and their rows are written in its transaction."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

from cauce.ports.savepoints import Savepoints
from cauce.ports.store import Outbound
from cauce.stores.sql.writing import write_outgoing

__all__ = ["FollowedSession", "follow", "joins_an_outer_transaction"]

_FOLLOWING = "cauce_following"


class FollowedSession(Session):
    """The session that a store of ours makes. SQLAlchemy events are registered once for the class: registering them on
    each session takes as long as a statement."""


@dataclass(frozen=True, slots=True)
class _Following:
    """The followers of a session, and which of its transactions were committed."""

    followers: list[tuple[Savepoints[Any], Outbound | None]] = field(
        default_factory=list[tuple[Savepoints[Any], Outbound | None]]
    )
    committed: set[int] = field(default_factory=set[int])


def follow(session: Session, savepoints: Savepoints[Any], outgoing: Outbound | None) -> None:
    """Tell `savepoints` how the session's transactions and savepoints end, also those that the user's code makes.

    The rows of the published events (`outgoing`) are written at the end of the same transaction, so that keys are
    locked for a moment only.
    """
    following: _Following | None = session.info.get(_FOLLOWING)
    if following is None:
        following = session.info[_FOLLOWING] = _Following()
        if not isinstance(session, FollowedSession):
            _listen_to(session)
    following.followers.append((savepoints, outgoing))


def joins_an_outer_transaction(session: Session) -> bool:
    """Whether a commit of this session would only release a savepoint of a connection that is in a transaction."""
    bind = session.bind
    return isinstance(bind, Connection) and bind.in_transaction()


def _before_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint's release
    following: _Following = session.info[_FOLLOWING]
    for savepoints, outgoing in following.followers:
        rows = outgoing(savepoints.surviving()) if outgoing is not None else ()
        if rows:
            write_outgoing(session.connection(), rows)


def _created(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        following: _Following = session.info[_FOLLOWING]
        for savepoints, _ in following.followers:
            savepoints.opened(id(transaction))


def _after_commit(session: Session) -> None:
    # Also fired when a savepoint is released, so note which of them it was.
    current = session.get_nested_transaction() or session.get_transaction()
    following: _Following = session.info[_FOLLOWING]
    following.committed.add(id(current))


def _ended(session: Session, transaction: SessionTransaction) -> None:
    following: _Following = session.info[_FOLLOWING]
    kept = id(transaction) in following.committed
    following.committed.discard(id(transaction))
    for savepoints, _ in following.followers:
        if transaction.nested:
            savepoints.ended(id(transaction), kept=kept)
        elif transaction.parent is None:
            savepoints.transaction_ended(committed=kept)


def _listen_to(sessions: Session | type[Session]) -> None:
    event.listen(sessions, "before_commit", _before_commit)
    event.listen(sessions, "after_transaction_create", _created)
    event.listen(sessions, "after_commit", _after_commit)
    event.listen(sessions, "after_transaction_end", _ended)


_listen_to(FollowedSession)
