"""A service that has nothing to do asks its database and its broker little: whoever adds a poll sees it here."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from testsupport.meters import Meters, Spent
from testsupport.waiting import eventually
from testsupport.whole_system import SERVICES, LiveSystem, live_system

WINDOWS, WINDOW_S = 2, 10.0
"""Of the windows the one with less is taken: what happens once, such as pruning each thirty seconds, is no poll."""
SETTLED_S = 6.0
"""By then what is looked at more often after a start has slowed down."""
COMMITS_A_SECOND, COMMANDS_A_SECOND = 2.8, 2.6
"""Two are the goal (`benchmarks/idle.py`). One more poll each second is beyond these."""


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Spent]]:
    with live_system(tmp_path_factory.mktemp("idle")) as live:
        for service in SERVICES:
            eventually(lambda service=service: live.not_ready(service) == {})
        yield live.call(_spent(live), within_s=120)


async def _spent(live: LiveSystem) -> dict[str, Spent]:
    await asyncio.sleep(SETTLED_S)
    meters, windows = Meters(live.system), list[dict[str, Spent]]()
    for _ in range(WINDOWS):
        before, began = meters.read(), time.monotonic()
        await asyncio.sleep(WINDOW_S)  # what is asked meanwhile is what is tested
        after, share = meters.read(), WINDOW_S / (time.monotonic() - began)  # a machine may be held up
        windows.append({name: _of(now.since(before[name]), share) for name, now in after.items()})
    return {
        name: Spent(
            min(one[name].processor_s for one in windows),
            min(one[name].commits or 0 for one in windows),
            min(one[name].commands for one in windows),
        )
        for name in SERVICES
    }


def _of(spent: Spent, share: float) -> Spent:
    return Spent(spent.processor_s * share, int((spent.commits or 0) * share), int(spent.commands * share))


@pytest.mark.parametrize("service", SERVICES)
def test_an_idle_service_commits_twice_a_second_at_most(spent: dict[str, Spent], service: str) -> None:
    assert 0 < (spent[service].commits or 0) <= WINDOW_S * COMMITS_A_SECOND


@pytest.mark.parametrize("service", SERVICES)
def test_an_idle_service_asks_its_broker_twice_a_second_at_most(spent: dict[str, Spent], service: str) -> None:
    assert 0 < spent[service].commands <= WINDOW_S * COMMANDS_A_SECOND
