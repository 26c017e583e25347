"""Following a SQLAlchemy session: which of the events published in it survive, and their rows in its transaction."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction

from cauce.ports.savepoints import Savepoints
from cauce.ports.store import Outbound
from cauce.stores.sql.outbox import write_outgoing

__all__ = ["FollowedSession", "follow", "joins_an_outer_transaction"]

_FOLLOWING = "cauce_following"


class FollowedSession(Session):
    """What a store of ours makes. Its class is listened to, once: to listen to each session takes as long as a
    statement."""


@dataclass(frozen=True, slots=True)
class _Following:
    """Who follows a session, and which of its transactions were committed."""

    followers: list[tuple[Savepoints[Any], Outbound | None]] = field(
        default_factory=list[tuple[Savepoints[Any], Outbound | None]]
    )
    committed: set[int] = field(default_factory=set[int])


def follow(session: Session, levels: Savepoints[Any], outgoing: Outbound | None) -> None:
    """Follow the session's transactions, including savepoints the user's code makes by itself.

    The rows of what was published (`outgoing`) go into the same transaction, at its end: keys are locked for a moment
    only.
    """
    following: _Following | None = session.info.get(_FOLLOWING)
    if following is None:
        following = session.info[_FOLLOWING] = _Following()
        if not isinstance(session, FollowedSession):
            _listen_to(session)
    following.followers.append((levels, outgoing))


def joins_an_outer_transaction(session: Session) -> bool:
    """Whether a commit of this session would only release a savepoint of somebody's connection."""
    bind = session.bind
    return isinstance(bind, Connection) and bind.in_transaction()


def _before_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint's release
    following: _Following = session.info[_FOLLOWING]
    for levels, outgoing in following.followers:
        rows = outgoing(levels.surviving()) if outgoing is not None else ()
        if rows:
            write_outgoing(session.connection(), rows)


def _created(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested:
        following: _Following = session.info[_FOLLOWING]
        for levels, _ in following.followers:
            levels.opened(id(transaction))


def _after_commit(session: Session) -> None:
    # Also fired when a savepoint is released, so note which of them it was.
    current = session.get_nested_transaction() or session.get_transaction()
    following: _Following = session.info[_FOLLOWING]
    following.committed.add(id(current))


def _ended(session: Session, transaction: SessionTransaction) -> None:
    following: _Following = session.info[_FOLLOWING]
    kept = id(transaction) in following.committed
    following.committed.discard(id(transaction))
    for levels, _ in following.followers:
        if transaction.nested:
            levels.ended(id(transaction), kept=kept)
        elif transaction.parent is None:
            levels.transaction_ended(committed=kept)


def _listen_to(sessions: Session | type[Session]) -> None:
    event.listen(sessions, "before_commit", _before_commit)
    event.listen(sessions, "after_transaction_create", _created)
    event.listen(sessions, "after_commit", _after_commit)
    event.listen(sessions, "after_transaction_end", _ended)


_listen_to(FollowedSession)
