"""From a coroutine to an exit code: what each kind of error means to the caller of the command."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from cauce.admin.database import DatabaseUnavailableError, ask_each
from cauce.admin.selection import UnclearError
from cauce.admin.targets import Target
from cauce.cli.screen import complain
from cauce.errors import CauceError, ConfigurationError, TransportUnavailableError
from cauce.ports.figures import NoTablesError

__all__ = ["DONE", "NOT_DONE", "UNREACHABLE", "WRONG", "carry_out", "complain_of_unreachable", "each"]

DONE, NOT_DONE, WRONG, UNREACHABLE = 0, 1, 2, 3

T = TypeVar("T")


def carry_out(work: Coroutine[Any, Any, int]) -> int:
    """Run it, report what went wrong in one line or a list, and return the exit code."""
    try:
        return asyncio.run(work)
    except ConfigurationError as error:
        # One problem needs no heading and no list.
        complain(error.problems[0] if len(error.problems) == 1 else str(error))
        return WRONG
    except UnclearError as error:
        complain(str(error))
        return WRONG
    except (DatabaseUnavailableError, NoTablesError, TransportUnavailableError) as error:
        complain(str(error))
        return UNREACHABLE
    except CauceError as error:
        complain(str(error))
        return NOT_DONE


async def each(targets: Sequence[Target], look: Callable[[Target], Awaitable[T]]) -> tuple[dict[str, T], int]:
    """What `look` found of every service that can be reached; the others are complained about, as the code says."""
    found, unreachable = await ask_each(targets, look)
    return found, complain_of_unreachable(unreachable)


def complain_of_unreachable(unreachable: Mapping[str, str]) -> int:
    """One line each, and the exit code."""
    for why in unreachable.values():
        complain(why)
    return UNREACHABLE if unreachable else DONE
