"""`cauce outbox release` and `discard`: which events are meant, what is done, and what is said of it."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from cauce.admin.database import DatabaseUnavailableError, looking
from cauce.admin.short_ids import shortest_beginnings
from cauce.admin.targets import Target
from cauce.cli.actions import Deeds, asked_in_one_way, begins_several, says_why
from cauce.cli.options import targets_of
from cauce.cli.running import DONE, NOT_DONE, UNREACHABLE, WRONG, each
from cauce.cli.screen import complain
from cauce.ports.figures import NoTablesError
from cauce.stores.sql.set_aside import SetAside, discard, release, select_set_aside

__all__ = ["discard_chosen", "release_chosen"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """An event that was set aside, where it is, and its id as short as it may be."""

    target: Target
    event: SetAside
    short: str

    @property
    def id(self) -> str:
        return self.event.event_id

    @property
    def about(self) -> str:
        return self.event.name if self.event.key is None else f"{self.event.name}, key {self.event.key}"


async def release_chosen(arguments: argparse.Namespace) -> int:
    """Release those that were meant, in the order of publishing, and return the exit code."""
    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    deeds = Deeds[Chosen]("released", "outgoing event", dry_run=arguments.dry_run)
    await deeds.carry_out(chosen, lambda engine, one: release(engine, one.event, why=arguments.because))
    return deeds.tell(
        as_json=arguments.json, afterwards="Sent within a second, if the service runs: cauce outbox status"
    )


async def discard_chosen(arguments: argparse.Namespace) -> int:
    """Discard those that were meant, and return the exit code."""
    because: str = arguments.because
    if not says_why(because):
        return WRONG
    chosen = await _chosen(arguments)
    if isinstance(chosen, int):
        return chosen
    deeds = Deeds[Chosen]("discarded", "outgoing event", dry_run=arguments.dry_run)
    await deeds.carry_out(chosen, lambda engine, one: discard(engine, one.event, why=because))
    return deeds.tell(as_json=arguments.json)


async def _chosen(arguments: argparse.Namespace) -> Sequence[Chosen] | int:
    """The events that were meant, in the order of publishing, or the exit code after a complaint."""
    ids: Sequence[str] = arguments.ids
    usage = "Ids; or --name; or --all. To see them: cauce outbox status"
    if not asked_in_one_way(f"cauce outbox {arguments.action}", (ids, arguments.name, arguments.all), usage):
        return WRONG

    async def look(target: Target) -> Sequence[Chosen]:
        async with looking(target) as connection:
            shown = shortest_beginnings(one.event_id for one in await select_set_aside(connection))
            found = await select_set_aside(connection, name=arguments.name)
        return [Chosen(target, one, shown[one.event_id]) for one in found]

    if not ids:
        found, code = await each(targets_of(arguments), look)
        everything = [one for several in found.values() for one in several]
        return everything if everything or code == DONE else code
    everything: list[Chosen] = []
    silent: list[str] = []
    for target in targets_of(arguments):
        try:
            everything += await look(target)
        except (DatabaseUnavailableError, NoTablesError) as error:
            silent.append(str(error))  # of no interest if another database knows the id
    return _of_ids(everything, ids, silent)


def _of_ids(everything: Sequence[Chosen], ids: Sequence[str], silent: Sequence[str]) -> Sequence[Chosen] | int:
    chosen: dict[str, Chosen] = {}
    for prefix in ids:
        candidates = [one for one in everything if one.id.startswith(prefix)]
        if len(candidates) > 1:
            return begins_several(prefix, candidates)
        if not candidates:
            complain(
                "\n".join(silent)
                or f"No event that was set aside begins with {prefix!r}. To see them: cauce outbox status"
            )
            return UNREACHABLE if silent else NOT_DONE
        chosen[candidates[0].id] = candidates[0]
    return list(chosen.values())
