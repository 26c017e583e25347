"""What the commands print of one action on several things, and what they ask for before it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from cauce.admin.bulk import BulkResult
from cauce.admin.finding import UnknownDeliveryError
from cauce.admin.selection import Selectable, UnknownIdError
from cauce.cli.running import DONE, NOT_DONE, UNREACHABLE
from cauce.cli.screen import complain, dim, lines_of, plural, red, say, say_json, yellow
from cauce.cli.when import stamp
from cauce.stores.sql.audit import AuditEntry

__all__ = ["BulkAction", "complain_of_settled", "complain_of_unknown_id", "require_one_selector", "require_reason"]

_SHOWN = 20
_DONE = {"replay": "replayed", "retry": "retried", "discard": "discarded", "move": "moved"}


T = TypeVar("T", bound=Selectable)


class BulkAction(Generic[T]):
    """`verb` is the participle, `noun` what one of them is called: BulkAction("replayed", "dead letter")."""

    def __init__(self, verb: str, noun: str, result: BulkResult[T]) -> None:
        self._verb = verb
        self._noun = noun
        self._result = result

    def report(self, outcome: Mapping[str, str] | None = None, *, as_json: bool, afterwards: str | None = None) -> int:
        """Print what became of them, and return the exit code.

        `outcome`: by id, what became of those that were waited for. `afterwards`: what to expect of them otherwise.
        """
        result = self._result
        if as_json:
            say_json(
                {
                    self._verb: [one.id for one in result.done],
                    "gone": [one.id for one in result.gone],
                    "refused": [{"id": one.id, "why": why} for one, why in result.refused],
                    "dry_run": result.dry_run,
                    **({"outcome": outcome} if outcome is not None else {}),
                }
            )
        else:
            for line in self._lines(outcome, afterwards):
                say(line)
        failed = outcome is not None and any(became != "handled" for became in outcome.values())
        return NOT_DONE if result.gone or result.refused or failed else DONE

    def _lines(self, outcome: Mapping[str, str] | None, afterwards: str | None) -> Iterator[str]:
        result = self._result
        for one in result.done[:_SHOWN]:
            became = (outcome or {}).get(one.id)
            text = f"{self._predicate(1)}{f': {became}' if became else ''} · {one.about}"
            yield from _under(one.short, text)
        if len(result.done) > _SHOWN:
            yield f"… and {len(result.done) - _SHOWN:,} more"
        for one in result.gone:
            yield from _under(yellow(one.short), "is gone: it was dealt with meanwhile")
        for one, why in result.refused:
            yield from _under(red(one.short), f"was not {self._verb}: {why}")
        if not (result.done or result.gone or result.refused):
            yield f"No {self._noun}s like that."
        elif len(result.done) > 1:
            yield f"{plural(len(result.done), self._noun)} {self._predicate(len(result.done))}."
        if result.done and afterwards and not result.dry_run:
            yield dim(afterwards)

    def _predicate(self, number: int) -> str:
        if self._result.dry_run:
            return f"would be {self._verb}"
        return f"{'was' if number == 1 else 'were'} {self._verb}"


def require_one_selector(command: str, ways: Sequence[object], usage: str) -> bool:
    """Whether exactly one of the ways to select was used; complains if not."""
    used = sum(map(bool, ways))
    if used != 1:
        complain(f"{command}: {'say it in one way, not in two:' if used else 'which ones?'} {usage}")
    return used == 1


def require_reason(because: str) -> bool:
    """Whether a reason was given; complains if not."""
    if not because.strip():
        complain("--because is empty: say why, for whoever asks later.")
    return bool(because.strip())


def complain_of_unknown_id(error: UnknownIdError, history: Sequence[str] = ()) -> int:
    """Why some databases could not be asked and what became of it, else that there is none; and the exit code."""
    complain("\n".join([*error.unreachable, *history]) or str(error))
    return UNREACHABLE if error.unreachable else NOT_DONE


def complain_of_settled(error: UnknownDeliveryError, handled: str) -> int:
    """What became of it, else that there is none; and the exit code. `handled`: what a last replay or retry means."""
    return complain_of_unknown_id(error, list(_history_lines(error.prefix, error.history, handled)))


def _history_lines(prefix: str, history: Mapping[str, Sequence[AuditEntry]], handled: str) -> Iterator[str]:
    """What became of a delivery that is not there any more."""
    for actions in history.values():
        for one in actions:
            because = f", because {one.why}" if one.why else ""
            yield f"{prefix} was {_DONE.get(one.what, one.what)} by {one.who} at {stamp(one.at)}{because}"
        if actions and actions[-1].what in ("replay", "retry"):
            yield f"{prefix} {handled}: its listener has handled it."


def _under(short: str, text: str) -> Iterator[str]:
    """A line after an id, and the rest of it under its beginning."""
    yield from lines_of(text, indent=10, first=f"{short}  ")
