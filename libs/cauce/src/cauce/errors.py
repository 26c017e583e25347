"""Every error Cauce raises, split by what the caller can do about it.

CauceError
├── DefinitionError                fix code: an event class or a listener says something impossible
├── ConfigurationError             fix configuration: everything wrong at start, in one message
├── PublishError                   fix code or data: this event cannot be published here
│   └── OutboxFullError            retry later: too many events wait to be sent
├── ConcurrentUseError             fix code: one transaction, two tasks at once
├── TransactionAbortedError        fix code: an error of the database was caught, without a savepoint
├── TransactionEndedError          fix code: a session was used after its block, or ended other than by it
├── DecodeError                    fix data: bytes from the wire that are not the event they claim to be
├── CommitUnknownError             ask again with the same idempotency key: it may or may not be committed
├── TransportUnavailableError      retry: the broker did not confirm
│   └── TailUnverifiedError        retry after asking for the tail: the broker may have forgotten something
└── ListenersFailedError           several listeners, several causes (an ExceptionGroup)
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Self

__all__ = [
    "CauceError",
    "CommitUnknownError",
    "ConcurrentUseError",
    "ConfigurationError",
    "DecodeError",
    "DefinitionError",
    "ListenersFailedError",
    "OutboxFullError",
    "PublishError",
    "TailUnverifiedError",
    "TransactionAbortedError",
    "TransactionEndedError",
    "TransportUnavailableError",
    "did_you_mean",
]


class CauceError(Exception):
    """The root: `except CauceError` catches whatever this library raises on purpose."""


class DefinitionError(CauceError, TypeError):
    """An event class or a listener is written in a way that cannot work. Nothing was registered."""


class ConfigurationError(CauceError):
    """The service cannot start like this; all that is wrong is in `problems`. Nothing was started."""

    def __init__(self, problems: Iterable[str], *, where: str = "the configuration") -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        count = len(self.problems)
        head = f"{count} problem{'' if count == 1 else 's'} in {where}:"
        super().__init__("\n".join([head, *(f"  · {problem}" for problem in self.problems)]))


class PublishError(CauceError):
    """This event cannot be published here; nothing was published.

    If a value is the cause, `path` says where in the payload it stands, JSONPath-like and with the names of the wire
    (`$.inner.a`), and `expectation` what was expected there; the value itself is in neither.
    """

    def __init__(self, message: str, *, path: str | None = None, expectation: str | None = None) -> None:
        self.path = path
        self.expectation = expectation
        super().__init__(message)


class OutboxFullError(PublishError):
    """So many events wait to be sent that this service takes no more (`Alarms.refuse_at`). Nothing was published; roll
    back, answer 503, and let the caller repeat the request later."""

    def __init__(self, unsent: int, limit: int) -> None:
        self.unsent = unsent
        self.limit = limit
        super().__init__(f"{unsent} events wait to be sent, and from {limit} on no more are taken. Try again later.")


class ConcurrentUseError(CauceError):
    """A transaction was used by two tasks at once; the second use had no effect."""


class TransactionAbortedError(CauceError):
    """The database has aborted the transaction: a statement failed and its error was caught. Nothing is committed, and
    no after-commit listener has run. `__cause__` is that error, where it is known.

    A statement that may fail belongs into `async with tx.savepoint(): …`, which undoes it alone.
    """

    def __init__(self, failed: BaseException | None = None) -> None:
        by = "" if failed is None else f" ({type(getattr(failed, 'orig', None) or failed).__name__})"
        super().__init__(
            f"The database has aborted this transaction because of an earlier error{by} that was caught: nothing of it "
            "can be committed. Put a statement that may fail into a part that can fail alone: async with tx.savepoint(): …"
        )
        self.__cause__ = failed


class TransactionEndedError(CauceError):
    """A transaction's session was used after its block, or its transaction was ended other than by its block.

    Nothing was executed or committed by the call that raises it. A listener's transaction is rolled back.
    """


class DecodeError(CauceError):
    """Bytes from the wire do not fit the event type they name. `path` says where, JSONPath-like (`$.email`)."""

    def __init__(self, name: str, *, path: str, expectation: str) -> None:
        self.name = name
        self.path = path
        self.expectation = expectation
        super().__init__(f"{name} · {path}: {expectation}")


class CommitUnknownError(CauceError):
    """The connection broke while committing: the change may be there or not, and only the database knows.

    No after-commit listener ran and nothing was handed to the transport by this process. Answer 503 and let
    the caller repeat the request with the same idempotency key.
    """

    def __init__(self) -> None:
        super().__init__(
            "The connection to the database was lost while committing, so the outcome is unknown. "
            "Repeat the request with the same idempotency key."
        )


class TransportUnavailableError(CauceError):
    """The broker did not confirm within its time limit. It may hold all of the batch or none of it."""


class TailUnverifiedError(TransportUnavailableError):
    """The lane's tail was verified before, and the broker may have lost it since. Nothing was appended: verify first."""


class ListenersFailedError(CauceError, ExceptionGroup[Exception]):
    """Independent listeners failed; the others ran. `exceptions` are theirs, in the order of the listeners."""

    def __new__(cls, event_name: str, errors: Sequence[Exception]) -> Self:
        noun = "a listener" if len(errors) == 1 else f"{len(errors)} listeners"
        self = super().__new__(cls, f"{noun} of {event_name} failed", errors)
        self.event_name = event_name
        return self

    event_name: str

    def __init__(self, event_name: str, errors: Sequence[Exception]) -> None:
        super().__init__(self.message, errors)

    def derive(self, excs: Sequence[Exception], /) -> "ListenersFailedError":  # pyright: ignore[reportIncompatibleMethodOverride]  # split() keeps the type
        return ListenersFailedError(self.event_name, excs)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known word, or nothing. Ready to be appended to a message."""
    nearest = get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
