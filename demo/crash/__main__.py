"""`make demo-crash`: lose the broker with all it holds, and see what is left.

Exits 0 only if every line of the table at the end was seen. Works in a folder of its own (`.cauce/crash`), emptied at
each start.
"""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from cauce.dev.errors import DevError
from cauce.dev.ports import choose_port
from cauce.dev.project import Project
from cauce.dev.system import DevSystem
from cauce.errors import ConfigurationError

from demo.crash.story import Outage
from demo.telling import Telling

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("SHOP_PORT", "SHOP_HEALTH_PORT", "MAIL_HEALTH_PORT")


def an_empty_system() -> Project:
    folder = ROOT / ".cauce" / "crash"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("pyproject.toml"), folder)
    return Project.read(folder / "pyproject.toml")


def environment() -> dict[str, str]:
    """Ours, and ports that are free; the services are found in this repository, wherever they run."""
    return {**os.environ, **{name: str(choose_port()) for name in PORTS}, "PYTHONPATH": str(ROOT)}


async def main() -> int:
    telling = Telling()
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    telling.heading("Starting real servers and two services: shop publishes orders, mail confirms them")
    try:
        async with DevSystem(an_empty_system(), environment=environment(), report=telling) as system:
            seen_all = await Outage(system, telling).play()
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
