"""`make demo`: start everything, play the article's story through the public doors, show what happened, stop.

Exits 0 only if every line of the table at the end was seen. Works in a folder of its own (`.cauce/demo`), emptied at
each start, so that the story always begins with an empty system.
"""

import asyncio
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

from cauce.dev.errors import DevError
from cauce.dev.project import Project
from cauce.dev.system import DevSystem
from cauce.errors import ConfigurationError

from demo.story import Story
from demo.telling import Telling


def an_empty_system() -> Project:
    """The repository's project, with its data in an emptied folder."""
    here = Path(__file__).resolve().parent.parent
    folder = here / ".cauce" / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return replace(Project.read(here / "pyproject.toml"), root=folder)


async def main() -> int:
    telling = Telling()
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    telling.heading("Starting a real Valkey, a real PostgreSQL, a mail sink and three services")
    try:
        # The story is told of durable delivery, whatever this shell asks for.
        environment = {**os.environ, "EVENTS_TRANSPORT": "redis-streams"}
        async with DevSystem(an_empty_system(), environment=environment, report=telling) as system:
            seen_all = await Story(system, telling).play()
    except (DevError, ConfigurationError) as error:
        telling.trouble(str(error))
        return 1
    telling.ending(seen_all)
    return 0 if seen_all else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
