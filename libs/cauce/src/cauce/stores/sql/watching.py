"""One transaction of a session, watched on its connection: whether it is still the one that was begun.

A statement or a driver's method can end it behind the session's back, and SQLite ends it by itself after some errors.
What follows would then run on its own, and be there whatever becomes of the rest: so it is refused.
"""

from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext

from cauce.errors import CauceError, ConfigurationError, TransactionAbortedError, TransactionEndedError
from cauce.stores.sql.driver_state import IN_FAILED_TRANSACTION, State, state_of_driver

__all__ = ["Watch", "watch_statements"]

_WATCH = "cauce_watch"
_ENDING = frozenset({"COMMIT", "END", "ROLLBACK", "ABORT"})


class Watch:
    """The watch over one connection while a session's transaction runs on it."""

    def __init__(self, connection: Connection, *, guarded: bool, may_commit: bool) -> None:
        """`guarded`: only the block that began the transaction may commit it, once it says `may_commit`."""
        self._postgres = connection.dialect.name == "postgresql"
        self._pooled: Any = connection.connection
        self._info = connection.info
        self._info[_WATCH] = self
        self._guarded = guarded
        self._driver: Any = self._pooled.driver_connection
        self._begun = (
            state_of_driver(self._driver) is State.OPEN
        )  # by our own BEGIN, or by whoever is around this session
        self._failed: BaseException | None = None
        self._cancelled = False
        self._refused: TransactionEndedError | None = None
        self.may_commit = may_commit

    def is_of(self, connection: Connection) -> bool:
        return connection.info.get(_WATCH) is self

    def end(self) -> None:
        """The session's transaction is over; the connection is somebody else's next."""
        if self._info.get(_WATCH) is self:
            del self._info[_WATCH]

    def check(self) -> None:
        """Raise TransactionAbortedError or TransactionEndedError if what was begun can no longer be committed."""
        if self._refused is not None:
            raise self._refused
        if not self._pooled.is_valid:
            if self._failed is not None and not self._cancelled:
                return  # the connection broke; whoever uses it next is told
            raise TransactionEndedError(
                "Inside this block a statement was cancelled, by a time limit or with its task, or its connection was "
                "invalidated, and the error was caught. With its connection the transaction is lost, and nothing of it is "
                "committed: let the error out. A limit for one statement, which costs no connection, is the database's: "
                "SET LOCAL statement_timeout"
            ) from self._failed
        state = state_of_driver(self._driver)
        if state is State.ABORTED:
            raise self.aborted()
        if state is State.NONE and self._begun:
            if self._failed is not None:
                raise self.aborted()
            raise TransactionEndedError(
                "This transaction was ended by a statement or by the driver, not by its block, so the rest is not "
                "committed. Leave out the COMMIT or ROLLBACK; a part that can fail alone is: async with tx.savepoint(): …"
            )

    def aborted(self) -> TransactionAbortedError:
        """Its traceback leads to the statement that failed."""
        failed = self._failed
        return TransactionAbortedError(failed).with_traceback(failed.__traceback__ if failed is not None else None)

    def before(self, statement: str) -> None:
        """Before a statement: an aborted transaction is the database's to refuse, one that is gone is ours."""
        if self._begun and state_of_driver(self._driver) is State.NONE:
            self.check()
        words = statement[:64].upper().replace(";", " ").split()
        if words and words[0] in _ENDING and "TO" not in words:
            self._refused = TransactionEndedError(
                f"{words[0]} as a statement would end the transaction behind the session's back; it was not executed. "
                "The transaction ends with its block; a part that can fail alone is: async with tx.savepoint(): …"
            )
            raise self._refused

    def after(self) -> None:
        """After a statement that worked."""
        state = state_of_driver(self._driver)
        if state is State.NONE:
            self._failed = None
            self.check()
            if self._postgres:
                raise ConfigurationError(
                    ["a statement was committed on its own: the connection is in autocommit mode. Leave it out"],
                    where="the connection to the database",
                )
        self._begun = state is not State.NONE
        self._failed = None

    def failed(self, error: BaseException, original: BaseException) -> None:
        """A statement failed; whether that ends the transaction is for the database to say. `original`: the driver's."""
        self._cancelled = self._cancelled or not isinstance(original, Exception)
        if self._failed is None:
            self._failed = None if isinstance(error, CauceError) else error
        elif (
            isinstance(original, TransactionAbortedError)
            or getattr(original, "sqlstate", None) == IN_FAILED_TRANSACTION
        ):
            _first_cause(original).__cause__ = self._failed  # which was caught: because of it, this one was refused

    def committing(self) -> None:
        """Before a COMMIT, whoever asks for it."""
        self.check()
        if self._guarded and not self.may_commit:
            self._refused = TransactionEndedError(
                "This transaction was to be committed through its connection; it was not. It commits when its block ends: "
                "leave the commit out."
            )
            raise self._refused


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def watch_statements(engine: Engine) -> None:
    """Let the watches over connections of this engine see every statement and every COMMIT. Once is enough."""
    if not event.contains(engine, "before_cursor_execute", _before):
        event.listen(engine, "before_cursor_execute", _before)
        event.listen(engine, "after_cursor_execute", _after)
        event.listen(engine, "handle_error", _failed)
        event.listen(engine, "commit", _committing)


def _before(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    if (watch := connection.info.get(_WATCH)) is not None:
        watch.before(statement)


def _after(connection: Connection, *_: object) -> None:
    if (watch := connection.info.get(_WATCH)) is not None:
        watch.after()


def _committing(connection: Connection) -> None:
    if (watch := connection.info.get(_WATCH)) is None:
        return
    try:
        watch.committing()
    except CauceError:
        # After a commit that failed SQLAlchemy takes the transaction for over, and rolls nothing back.
        connection.dialect.do_rollback(connection.connection)
        raise


def _failed(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return
    if (watch := connection.info.get(_WATCH)) is not None:
        watch.failed(context.sqlalchemy_exception or context.original_exception, context.original_exception)
