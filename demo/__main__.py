"""`make demo`: start everything, play the article's story through the public doors, show what happened, stop.

Exits 0 only if every line of the table at the end was seen. Works in a folder of its own (`.cauce/demo`), emptied at
each start, so that the story always begins with an empty system.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from cauce.dev.private_folder import make_folder
from cauce.settings.project import Project

from demo.playing import play
from demo.story import Story


def an_empty_system() -> Project:
    """The repository's project, with its data in an emptied folder."""
    here = Path(__file__).resolve().parent.parent
    folder = here / ".cauce" / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    return replace(Project.read(here / "pyproject.toml"), root=folder)


if __name__ == "__main__":
    play(
        lambda system, terminal: Story(system, terminal).play(),
        "Starting a real Valkey, a real PostgreSQL, a mail sink and three services",
        an_empty_system,
        # The story is about durable delivery, whatever this shell asks for.
        {**os.environ, "EVENTS_TRANSPORT": "redis-streams"},
    )
