"""One action on several things, one database after the other; what became of each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from cauce.admin.database import open_engine
from cauce.admin.selection import Selectable

__all__ = ["BulkResult", "act_on_each"]

T = TypeVar("T", bound=Selectable)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkResult(Generic[T]):
    """`done`: also what would be done, in a dry run. `gone`: dealt with meanwhile. `refused`: never, and why."""

    dry_run: bool
    done: Sequence[T]
    gone: Sequence[T]
    refused: Sequence[tuple[T, str]] = field(default_factory=list[tuple[T, str]])


async def act_on_each(
    chosen: Sequence[T],
    act: Callable[[AsyncEngine, T], Awaitable[bool | str]],
    *,
    dry_run: bool = False,
    refused: Sequence[tuple[T, str]] = (),
) -> BulkResult[T]:
    """Do it to each, or in a dry run to none. `act` says whether it was still there, or why it was not done."""
    done: list[T] = []
    gone: list[T] = []
    not_done = list(refused)
    for target in dict.fromkeys(one.target for one in chosen):
        async with open_engine(target) as engine:
            for one in (one for one in chosen if one.target is target):
                outcome = dry_run or await act(engine, one)
                if isinstance(outcome, str):
                    not_done.append((one, outcome))
                else:
                    (done if outcome else gone).append(one)
    return BulkResult(dry_run=dry_run, done=done, gone=gone, refused=not_done)
