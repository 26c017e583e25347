"""From a coroutine to an exit code: what each kind of error means to whoever called the command."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from cauce.admin.database import DatabaseUnavailableError
from cauce.admin.targets import Target
from cauce.cli.screen import complain
from cauce.errors import CauceError, ConfigurationError, TransportUnavailableError
from cauce.ports.figures import NoTablesError
from cauce.transports.redis.connection import RedisTroubleError

__all__ = ["DONE", "NOT_DONE", "UNREACHABLE", "WRONG", "carry_out", "each"]

DONE, NOT_DONE, WRONG, UNREACHABLE = 0, 1, 2, 3

T = TypeVar("T")


def carry_out(work: Coroutine[Any, Any, int]) -> int:
    """Run it, say what went wrong in one line or a list, and return the exit code."""
    try:
        return asyncio.run(work)
    except ConfigurationError as error:
        # One problem needs no heading and no list.
        complain(error.problems[0] if len(error.problems) == 1 else str(error))
        return WRONG
    except (DatabaseUnavailableError, NoTablesError, TransportUnavailableError, RedisTroubleError) as error:
        complain(str(error))
        return UNREACHABLE
    except CauceError as error:
        complain(str(error))
        return NOT_DONE


async def each(targets: Sequence[Target], look: Callable[[Target], Awaitable[T]]) -> tuple[dict[str, T], int]:
    """What `look` found of every service that can be reached; the others are complained about, and the code says so."""
    found: dict[str, T] = {}
    code = DONE
    for target in targets:
        try:
            found[target.name] = await look(target)
        except (DatabaseUnavailableError, NoTablesError) as error:
            complain(str(error))
            code = UNREACHABLE
    return found, code
