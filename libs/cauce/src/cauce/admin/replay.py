"""Dead letters of several services: which ones are meant; replayed, discarded, and waited for."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.admin.bulk import BulkResult, act_on_each
from cauce.admin.database import DatabaseUnavailableError, ask_each, read_only_connection
from cauce.admin.selection import AmbiguousIdError, Selection, UnknownIdError
from cauce.admin.short_ids import shortest_beginnings
from cauce.admin.targets import Target
from cauce.ports.figures import NoTablesError
from cauce.stores.sql import dead_letters
from cauce.stores.sql.audit import AuditEntry, history_of
from cauce.stores.sql.dead_letters import DeadLetter, DeadLetterFilter
from cauce.stores.sql.listeners import NoSuchListenerError

__all__ = [
    "ChosenLetter",
    "LetterSelection",
    "UnknownLetterError",
    "count_alike",
    "discard",
    "find_letters",
    "letters_of_ids",
    "replay",
    "wait_for_outcomes",
]

_SETTLED = ("handled", "dead again")
_LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class ChosenLetter:
    """A dead letter, where it is, and its id as short as it may be."""

    target: Target
    letter: DeadLetter
    short: str

    @property
    def id(self) -> str:
        return self.letter.id

    @property
    def about(self) -> str:
        return f"{self.letter.name} → {self.letter.listener}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterSelection(Selection[ChosenLetter]):
    """`strangers`: services that have no such listener, and the nearest they have."""

    strangers: Mapping[str, str]

    @property
    def unknown_listener(self) -> str | None:
        """What is wrong with the listener's name, if no service that answered has one of that name."""
        if not self.strangers or len(self.strangers) < len(self.by_service):
            return None
        return "\n".join(f"{name}: {why}" for name, why in self.strangers.items())


class UnknownLetterError(UnknownIdError):
    """No dead letter has an id that begins so. `history`: by service, what was done to one that did."""

    def __init__(
        self, prefix: str, *, unreachable: Sequence[str] = (), history: Mapping[str, Sequence[AuditEntry]] | None = None
    ) -> None:
        super().__init__(
            f"No dead letter begins with {prefix!r}. To see them: cauce dead list", unreachable=unreachable
        )
        self.prefix = prefix
        self.history = history or {}


async def find_letters(targets: Sequence[Target], filters: DeadLetterFilter) -> LetterSelection:
    """Those that fit, newest first."""
    strangers: dict[str, str] = {}

    async def look(target: Target) -> Sequence[ChosenLetter]:
        async with read_only_connection(target) as connection:
            try:
                letters = await dead_letters.select(connection, filters)
            except NoSuchListenerError as error:
                strangers[target.name] = str(error)
                return []
            return await _chosen(connection, target, letters)

    found, unreachable = await ask_each(targets, look)
    return LetterSelection(by_service=found, unreachable=unreachable, strangers=strangers)


async def letters_of_ids(targets: Sequence[Target], ids: Sequence[str]) -> Sequence[ChosenLetter]:
    """The letter that each id, or beginning of one, means. Raises AmbiguousIdError, UnknownLetterError."""
    chosen: dict[str, ChosenLetter] = {}
    for prefix in (one.lower() for one in ids):
        candidates: list[ChosenLetter] = []
        history: dict[str, Sequence[AuditEntry]] = {}
        unreachable: list[str] = []
        for target in targets:
            try:
                async with read_only_connection(target) as connection:
                    letters = await dead_letters.by_prefix(connection, prefix)
                    candidates += await _chosen(connection, target, letters)
                    history[target.name] = [] if letters else await history_of(connection, prefix)
            except (DatabaseUnavailableError, NoTablesError) as error:
                unreachable.append(str(error))  # of no interest if another database knows the id
        if not candidates:
            raise UnknownLetterError(prefix, unreachable=unreachable, history=history)
        if len(candidates) > 1:
            raise AmbiguousIdError(prefix, candidates)
        chosen[candidates[0].id] = candidates[0]
    return list(chosen.values())


async def _chosen(connection: AsyncConnection, target: Target, letters: Sequence[DeadLetter]) -> Sequence[ChosenLetter]:
    short = shortest_beginnings(await dead_letters.dead_letter_ids(connection)) if letters else {}
    return [ChosenLetter(target, letter, short[letter.id]) for letter in letters]


async def count_alike(one: ChosenLetter) -> int:
    """How many others died of the same."""
    async with read_only_connection(one.target) as connection:
        return await dead_letters.siblings(connection, one.letter)


async def replay(
    chosen: Sequence[ChosenLetter], *, why: str | None, rate: float | None = None, dry_run: bool = False
) -> BulkResult[ChosenLetter]:
    """Hand them to their listeners again, in this order, at most `rate` a second."""
    refused = [(one, reason) for one in chosen if (reason := _not_replayable(one.letter)) is not None]

    async def put_back(engine: AsyncEngine, one: ChosenLetter) -> bool:
        was_there = await dead_letters.replay(engine, one.letter, why=why)
        if was_there and rate:
            await asyncio.sleep(1 / rate)
        return was_there

    replayable = [one for one in chosen if _not_replayable(one.letter) is None]
    return await act_on_each(replayable, put_back, dry_run=dry_run, refused=refused)


async def discard(chosen: Sequence[ChosenLetter], *, why: str, dry_run: bool = False) -> BulkResult[ChosenLetter]:
    """Give them up for good. The next event of the same key is then due."""
    return await act_on_each(
        chosen, lambda engine, one: dead_letters.discard(engine, one.letter, why=why), dry_run=dry_run
    )


def _not_replayable(letter: DeadLetter) -> str | None:
    if letter.envelope is None:
        return "its bytes are no event, so no listener can be given it; discard it"
    if not letter.reached_a_listener:
        return "it belongs to no listener of this service; discard it"
    return None


async def wait_for_outcomes(replayed: Sequence[ChosenLetter], limit_s: float) -> Mapping[str, str]:
    """By id, what became of them: handled, dead again, or how it stood when the time was over."""
    deadline = asyncio.get_running_loop().time() + limit_s
    settled: dict[str, str] = {}
    while True:
        for target in dict.fromkeys(one.target for one in replayed):
            open_ones = [
                one.letter for one in replayed if one.target is target and settled.get(one.letter.id) not in _SETTLED
            ]
            if open_ones:
                async with read_only_connection(target) as connection:
                    settled |= await dead_letters.outcomes(connection, open_ones)
        everything = all(became in _SETTLED for became in settled.values())
        if everything or asyncio.get_running_loop().time() >= deadline:
            return settled
        await asyncio.sleep(_LOOK_AGAIN_S)
