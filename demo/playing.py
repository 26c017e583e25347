"""How a story is played: on a system that is started for it and stopped after it."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn

from cauce.dev.errors import DevError
from cauce.dev.system import DevSystem
from cauce.errors import ConfigurationError
from cauce.settings.project import Project

from demo.terminal import Terminal

__all__ = ["play"]


def play(
    story: Callable[[DevSystem, Terminal], Coroutine[Any, Any, bool]],
    heading: str,
    project: Callable[[], Project],
    environment: Mapping[str, str],
) -> NoReturn:
    """Start the project's servers and services, play the story, stop everything, and exit: 0 only if all of it was seen."""

    async def played() -> int:
        terminal = Terminal()
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        terminal.heading(heading)
        try:
            async with DevSystem(project(), environment=environment, report=terminal) as system:
                seen_all = await story(system, terminal)
        except (DevError, ConfigurationError) as error:
            terminal.trouble(str(error))
            return 1
        terminal.ending(seen_all)
        return 0 if seen_all else 1

    try:
        sys.exit(asyncio.run(played()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
