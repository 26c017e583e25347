"""Goal 12: the whole way, by every way; each side is a process of its own, which runs `produce` or `consume`."""

import json
import os
import time

from processes import Child

from durability import by_hand, with_cauce, with_faststream
from durability.place import Place

__all__ = ["WholeWay", "consume", "place_of_this_process", "produce", "side"]


def side(script: str, what: str, way: str, place: Place, count: int) -> Child:
    """Start `script` as the producer's or the consumer's process."""
    there = json.dumps([place.database, place.broker])
    return Child(script, f"--{what}", way, "--count", str(count), environment={"BENCH_PLACE": there})


def place_of_this_process() -> Place:
    return Place(*json.loads(os.environ["BENCH_PLACE"]))


async def produce(way: str, place: Place, count: int) -> None:
    """The producer's process."""
    await {"cauce": with_cauce.produce, "peer": with_faststream.produce}[way](place, count)


async def consume(way: str, place: Place, count: int) -> None:
    """The consumer's process."""
    match way:
        case "cauce":
            await with_cauce.consume(place, count, shared=False)
        case "cauce-shared":
            await with_cauce.consume(place, count, shared=True)
        case "peer":
            await with_faststream.consume(place, count)
        case _:
            await by_hand.consume(place, count)


class WholeWay:
    """From the commit in one database to the effect in another, two processes."""

    def __init__(self, script: str, producing: Place, consuming: Place) -> None:
        self._script = script
        self._producing = producing
        self._consuming = consuming

    async def measure(self, producer: str, consumer: str, count: int) -> float:
        """Events a second, from the first one published to the last effect committed."""
        before = await self._consuming.effects()
        consuming = side(self._script, "consume", consumer, self._consuming, count)
        await consuming.report("ready")
        producing = side(self._script, "produce", producer, self._producing, count)
        await producing.report("ready")
        began = time.monotonic()
        producing.tell("go")
        _, ended = await consuming.report("done")
        producing.tell("end")
        producing.end()
        consuming.end()
        await self._check(before + count)
        return count / (float(ended) - began)

    async def measure_consumer(self, consumer: str, count: int) -> float:
        """Events a second that lie in the stream already."""
        before = await self._consuming.effects()
        await (by_hand if consumer == "hand" else with_cauce).send(self._consuming, count)
        consuming = side(self._script, "consume", consumer, self._consuming, count)
        await consuming.report("ready")
        began, ended = await consuming.report("done")
        consuming.end()
        await self._check(before + count)
        return count / (float(ended) - float(began))

    async def _check(self, expected: int) -> None:
        found = await self._consuming.effects()
        assert found == expected, f"{found} effects instead of {expected}"
