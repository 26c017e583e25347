"""Dead letters of several services: which ones are meant; replayed, discarded, and waited for."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cauce.admin.bulk import BulkResult, act_on_each
from cauce.admin.database import read_only_connection
from cauce.admin.finding import ListenerSelection, find_by_ids, find_by_listener
from cauce.admin.short_ids import shortest_beginnings
from cauce.admin.targets import Target
from cauce.stores.sql import dead_letters
from cauce.stores.sql.dead_letters import DeadLetter, DeadLetterFilter
from cauce.stores.sql.registry import description_of

__all__ = [
    "ChosenLetter",
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
    """A dead letter, where it is, and its id as short as it may be. `in_code`: whether its listener still is."""

    target: Target
    letter: DeadLetter
    short: str
    in_code: bool = True

    @property
    def id(self) -> str:
        return self.letter.id

    @property
    def about(self) -> str:
        return f"{self.letter.name} → {self.letter.listener}"


async def find_letters(targets: Sequence[Target], filters: DeadLetterFilter) -> ListenerSelection[ChosenLetter]:
    """Those that fit, newest first."""

    async def look(connection: AsyncConnection, target: Target) -> Sequence[ChosenLetter]:
        return await _chosen(connection, target, await dead_letters.select(connection, filters))

    return await find_by_listener(targets, look)


async def letters_of_ids(targets: Sequence[Target], ids: Sequence[str]) -> Sequence[ChosenLetter]:
    """The letter that each id, or beginning of one, means. Raises AmbiguousIdError, UnknownDeliveryError."""

    async def look(connection: AsyncConnection, target: Target, prefix: str) -> Sequence[ChosenLetter]:
        return await _chosen(connection, target, await dead_letters.by_prefix(connection, prefix))

    nothing = "No dead letter begins with {prefix}. To see them: cauce dead list"
    return await find_by_ids(targets, ids, look, nothing=nothing)


async def _chosen(connection: AsyncConnection, target: Target, letters: Sequence[DeadLetter]) -> Sequence[ChosenLetter]:
    short = shortest_beginnings(await dead_letters.dead_letter_ids(connection)) if letters else {}
    description = await description_of(connection) if letters else None
    known = None if description is None else {one.consumer for one in description.listeners}
    return [
        ChosenLetter(target, letter, short[letter.id], known is None or letter.consumer in known) for letter in letters
    ]


async def count_alike(one: ChosenLetter) -> int:
    """How many others died of the same."""
    async with read_only_connection(one.target) as connection:
        return await dead_letters.siblings(connection, one.letter)


async def replay(
    chosen: Sequence[ChosenLetter], *, why: str | None, rate: float | None = None, dry_run: bool = False
) -> BulkResult[ChosenLetter]:
    """Hand them to their listeners again, in this order, at most `rate` a second."""
    refused = [(one, reason) for one in chosen if (reason := _not_replayable(one)) is not None]

    async def put_back(engine: AsyncEngine, one: ChosenLetter) -> bool | str:
        was_there = await dead_letters.replay(engine, one.letter, why=why)
        if was_there is True and rate:
            await asyncio.sleep(1 / rate)
        return was_there

    replayable = [one for one in chosen if _not_replayable(one) is None]
    return await act_on_each(replayable, put_back, dry_run=dry_run, refused=refused)


async def discard(chosen: Sequence[ChosenLetter], *, why: str, dry_run: bool = False) -> BulkResult[ChosenLetter]:
    """Give them up for good. The next event of the same key is then due."""
    return await act_on_each(
        chosen, lambda engine, one: dead_letters.discard(engine, one.letter, why=why), dry_run=dry_run
    )


def _not_replayable(one: ChosenLetter) -> str | None:
    letter = one.letter
    if letter.envelope is None:
        return "its bytes are no event, so no listener can be given it; discard it"
    if not letter.reached_a_listener:
        return "it belongs to no listener of this service; discard it"
    if not one.in_code:
        return (
            f"no listener {letter.listener} in the code of {one.target.name} any more: bring it back or name it in "
            f"earlier_names of another, or cauce dead discard {one.short} --because '…'"
        )
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
