"""`make demo-crash`: lose the broker with all it holds, and see what is left.

Exits 0 only if every line of the table at the end was seen. Works in a folder of its own (`.cauce/crash`), emptied at
each start.
"""

import os
import shutil
from pathlib import Path

from cauce.dev.ports import choose_port
from cauce.dev.private_folder import make_folder, restrict
from cauce.settings.project import Project

from demo.crash.story import Story
from demo.playing import play

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("SHOP_PORT", "SHOP_HEALTH_PORT", "MAIL_HEALTH_PORT")


def an_empty_system() -> Project:
    folder = ROOT / ".cauce" / "crash"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    shutil.copy(Path(__file__).with_name("pyproject.toml"), folder)
    restrict(folder / "pyproject.toml")
    return Project.read(folder / "pyproject.toml")


if __name__ == "__main__":
    play(
        lambda system, terminal: Story(system, terminal).play(),
        "Starting real servers and two services: shop publishes orders, mail confirms them",
        an_empty_system,
        # Ports that are free; and the services are found in this repository, wherever they run.
        {**os.environ, **{name: str(choose_port()) for name in PORTS}, "PYTHONPATH": str(ROOT)},
    )
