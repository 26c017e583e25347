"""A SQLAlchemy session followed: its surviving events are known, and their rows are written in its transaction."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction

from cauce.errors import TransactionEndedError
from cauce.ports.savepoints import Savepoints
from cauce.ports.store import Outbound
from cauce.stores.sql.driver_state import IN_FAILED_TRANSACTION
from cauce.stores.sql.events_with_commit import commits_by_itself
from cauce.stores.sql.watching import Watch, watch_statements
from cauce.stores.sql.writing import write_outgoing

__all__ = ["FollowedSession", "Following", "follow", "joins_an_outer_transaction"]

_FOLLOWING = "cauce_following"


class FollowedSession(Session):
    """The session that a store of ours makes. SQLAlchemy events are registered once for the class: registering them on
    each session takes as long as a statement."""


@dataclass(slots=True)
class Following:
    """The followers of a session, which of its transactions were committed, and whether its user ended one."""

    followers: list[tuple[Savepoints[Any], Outbound | None]] = field(
        default_factory=list[tuple[Savepoints[Any], Outbound | None]]
    )
    committed: set[int] = field(default_factory=set[int])
    watches: list[Watch] = field(default_factory=list[Watch])
    guarded: bool = False
    """Only the block that began the transaction may end it."""
    ending: bool = False
    """That block is at its end."""
    ended: bool = False
    """That block has ended: nothing may be begun any more."""
    ended_by_user: TransactionEndedError | None = None
    """What was done in a guarded transaction that only its block may do."""

    def check(self) -> None:
        """Raise TransactionAbortedError or TransactionEndedError if the transaction can no longer be committed whole."""
        if self.ended_by_user is not None:
            raise self.ended_by_user
        for watch in self.watches:
            watch.check()

    @contextmanager
    def told_if_aborted(self) -> Generator[None]:
        """Raise TransactionAbortedError for a statement of ours that the database refuses because of an earlier one."""
        try:
            yield
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == IN_FAILED_TRANSACTION:
                for watch in self.watches:
                    raise watch.aborted()  # noqa: B904  # caused by the statement that failed before
            raise

    def may_commit(self) -> None:
        """The block is at its end: the commit that follows is its own."""
        self.ending = True
        for watch in self.watches:
            watch.may_commit = True


def follow(
    session: Session, savepoints: Savepoints[Any], outgoing: Outbound | None, *, guarded: bool = False
) -> Following:
    """Tell `savepoints` how the session's transactions and savepoints end, also those that the user's code makes.

    The rows of the published events (`outgoing`) are written at the end of the same transaction, so that keys are
    locked for a moment only. `guarded`: a commit of the session by the user's code raises TransactionEndedError, and
    a rollback is remembered by the Following.
    """
    following: Following | None = session.info.get(_FOLLOWING)
    if following is None:
        following = session.info[_FOLLOWING] = Following(guarded=guarded)
        if not isinstance(session, FollowedSession):
            _listen_to(session)
    following.followers.append((savepoints, outgoing))
    return following


def joins_an_outer_transaction(session: Session) -> bool:
    """Whether a commit of this session would only release a savepoint of a connection that is in a transaction."""
    bind = session.bind
    return isinstance(bind, Connection) and bind.in_transaction()


def _before_commit(session: Session) -> None:
    if session.in_nested_transaction():
        return  # a savepoint's release
    following: Following = session.info[_FOLLOWING]
    if following.guarded and not following.ending:
        following.ended_by_user = TransactionEndedError(
            "This transaction's session was to be committed inside its block; it was not. The block commits when it "
            "ends: leave the commit out."
        )
    following.check()
    for savepoints, outgoing in following.followers:
        rows = outgoing(savepoints.surviving()) if outgoing is not None else ()
        if rows:
            with following.told_if_aborted():
                write_outgoing(session.connection(), rows, with_commit=commits_by_itself(session))


def _begun(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    following: Following = session.info[_FOLLOWING]
    if not any(watch.is_of(connection) for watch in following.watches):
        watch_statements(connection.engine)
        following.watches.append(Watch(connection, guarded=following.guarded, may_commit=following.ending))


def _created(session: Session, transaction: SessionTransaction) -> None:
    following: Following = session.info[_FOLLOWING]
    if following.ended and transaction.parent is None:
        transaction.close()
        raise TransactionEndedError(
            "This session's transaction has ended, and the session with it. Do the work inside the block, or open another "
            "transaction: async with service.transaction() as tx: …"
        )
    if transaction.nested:
        for savepoints, _ in following.followers:
            savepoints.opened(id(transaction))


def _after_commit(session: Session) -> None:
    # Also fired when a savepoint is released, so note which of them it was.
    current = session.get_nested_transaction() or session.get_transaction()
    following: Following = session.info[_FOLLOWING]
    following.committed.add(id(current))


def _ended(session: Session, transaction: SessionTransaction) -> None:
    following: Following = session.info[_FOLLOWING]
    kept = id(transaction) in following.committed
    following.committed.discard(id(transaction))
    if transaction.parent is None:
        _unwatch(following)
        following.ended = following.ended or following.ending  # from here on a task that outlives the block finds it so
        if following.guarded and not following.ending and following.ended_by_user is None:
            following.ended_by_user = TransactionEndedError(
                "This transaction's session was rolled back or closed inside its block, so nothing of the block is "
                "committed. A part that can fail alone is: async with tx.savepoint(): …"
            )
    for savepoints, _ in following.followers:
        if transaction.nested:
            savepoints.ended(id(transaction), kept=kept)
        elif transaction.parent is None:
            savepoints.transaction_ended(committed=kept)


def _unwatch(following: Following) -> None:
    for watch in following.watches:
        watch.end()
    following.watches.clear()


def _listen_to(sessions: Session | type[Session]) -> None:
    event.listen(sessions, "before_commit", _before_commit)
    event.listen(sessions, "after_begin", _begun)
    event.listen(sessions, "after_transaction_create", _created)
    event.listen(sessions, "after_commit", _after_commit)
    event.listen(sessions, "after_transaction_end", _ended)


_listen_to(FollowedSession)
