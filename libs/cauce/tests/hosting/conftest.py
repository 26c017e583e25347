"""A service behind an HTTP door, as a process that clients besiege."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from testsupport.hosted import Hosted


@pytest.fixture
def besiege(tmp_path: Path) -> Generator[Callable[..., Hosted]]:
    """Start it, with these variables in its environment; ready when this returns."""
    made: list[Hosted] = []

    def start(**environment: str) -> Hosted:
        hosted = Hosted(str(tmp_path), tmp_path, program="besieged_service.py", environment=environment)
        made.append(hosted)
        hosted.ready()
        return hosted

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()
