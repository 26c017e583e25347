"""What one command does to several things: which are meant, what is done, and what is said of it at the end."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from cauce.admin.database import open_engine
from cauce.admin.targets import Target
from cauce.cli.running import DONE, NOT_DONE, WRONG
from cauce.cli.screen import complain, dim, plural, red, say, say_json, width, wrapped, yellow

__all__ = ["Deeds", "asked_in_one_way", "begins_several", "says_why"]

_SHOWN = 20


class Thing(Protocol):
    """Something with an id. `target` is where it is; `short` the beginning that means no other; `about` what it is."""

    @property
    def target(self) -> Target: ...
    @property
    def id(self) -> str: ...
    @property
    def short(self) -> str: ...
    @property
    def about(self) -> str: ...


T = TypeVar("T", bound=Thing)


class Deeds(Generic[T]):
    """`done` is the participle, `noun` what one of them is called: Deeds("replayed", "dead letter")."""

    def __init__(self, done: str, noun: str, *, dry_run: bool) -> None:
        self._verb = done
        self._noun = noun
        self._dry_run = dry_run
        self.done: list[T] = []
        self.gone: list[T] = []
        self.refused: list[tuple[T, str]] = []

    async def carry_out(self, chosen: Sequence[T], do: Callable[[AsyncEngine, T], Awaitable[bool]]) -> None:
        """Do it to each, one database after the other; in a dry run, to none. `do` says whether it was still there."""
        for target in dict.fromkeys(one.target for one in chosen):
            async with open_engine(target) as engine:
                for one in (one for one in chosen if one.target is target):
                    done = self._dry_run or await do(engine, one)
                    (self.done if done else self.gone).append(one)

    def tell(self, outcome: Mapping[str, str] | None = None, *, as_json: bool, afterwards: str | None = None) -> int:
        """Print it, and return the exit code.

        `outcome`: by id, what became of those that were waited for. `afterwards`: what to expect of them otherwise.
        """
        if as_json:
            say_json(
                {
                    self._verb: [one.id for one in self.done],
                    "gone": [one.id for one in self.gone],
                    "refused": [{"id": one.id, "why": why} for one, why in self.refused],
                    "dry_run": self._dry_run,
                    **({"outcome": outcome} if outcome is not None else {}),
                }
            )
        else:
            for line in self._lines(outcome, afterwards):
                say(line)
        failed = outcome is not None and any(became != "handled" for became in outcome.values())
        return NOT_DONE if self.gone or self.refused or failed else DONE

    def _lines(self, outcome: Mapping[str, str] | None, afterwards: str | None) -> Iterator[str]:
        for one in self.done[:_SHOWN]:
            became = (outcome or {}).get(one.id)
            text = f"{self._told(1)}{f': {became}' if became else ''} · {one.about}"
            yield from _under(one.short, text)
        if len(self.done) > _SHOWN:
            yield f"… and {len(self.done) - _SHOWN:,} more"
        for one in self.gone:
            yield from _under(yellow(one.short), "is gone: it was dealt with meanwhile")
        for one, why in self.refused:
            yield from _under(red(one.short), f"was not {self._verb}: {why}")
        if not (self.done or self.gone or self.refused):
            yield f"No {self._noun}s like that."
        elif len(self.done) > 1:
            yield f"{plural(len(self.done), self._noun)} {self._told(len(self.done))}."
        if self.done and afterwards and not self._dry_run:
            yield dim(afterwards)

    def _told(self, number: int) -> str:
        if self._dry_run:
            return f"would be {self._verb}"
        return f"{'was' if number == 1 else 'were'} {self._verb}"


def asked_in_one_way(command: str, ways: Sequence[object], usage: str) -> bool:
    """Whether exactly one of the ways to say which ones was used; complains if not."""
    used = sum(map(bool, ways))
    if used != 1:
        complain(f"{command}: {'say it in one way, not in two:' if used else 'which ones?'} {usage}")
    return used == 1


def says_why(because: str) -> bool:
    """Whether a reason was given; complains if not."""
    if not because.strip():
        complain("--because is empty: say why, for whoever asks later.")
    return bool(because.strip())


def begins_several(prefix: str, candidates: Sequence[Thing]) -> int:
    """The complaint about a beginning that means more than one, and its exit code."""
    complain(f"{prefix} begins several: {', '.join(one.short for one in candidates)}. Write more of it.")
    return WRONG


def _under(short: str, text: str) -> Iterator[str]:
    """A line after an id, and the rest of it under its beginning."""
    first, *rest = wrapped(text, width() - 10)
    yield f"{short}  {first}"
    yield from (f"{' ' * 10}{line}" for line in rest)
