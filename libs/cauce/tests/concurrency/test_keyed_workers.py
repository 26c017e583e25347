"""Many keys at once, one key never; and several keys in one piece of work where that is allowed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager

from cauce.concurrency.keyed_workers import KeyedWorkers

Job = tuple[str, int]


@asynccontextmanager
async def working(
    work: Callable[[Sequence[Job]], Awaitable[Mapping[Job, float] | None]],
    *,
    group: Callable[[Job], Hashable | None] = lambda job: None,
    at_once: int = 4,
    bound: int = 1000,
    restrained: Callable[[Job], bool] = lambda job: False,
) -> AsyncGenerator[KeyedWorkers[Job]]:
    per_key = KeyedWorkers[Job](
        work, group=group, at_once=at_once, bound=bound, restrained=restrained, restrained_at_once=2
    )
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(per_key.run())
        yield per_key
        task.cancel()


async def finish(per_key: KeyedWorkers[Job]) -> None:
    async with asyncio.timeout(10):
        while per_key.unfinished:  # noqa: ASYNC110  # its workers change it
            await asyncio.sleep(0)


class Work:
    def __init__(self) -> None:
        self.done: list[Sequence[Job]] = []
        self.keys_at_once = 0
        self._running: set[str] = set()

    async def __call__(self, jobs: Sequence[Job]) -> None:
        keys = {key for key, _ in jobs}
        assert len(keys) == len(jobs), "one key twice in one piece of work"
        assert not keys & self._running, "one key in two pieces of work"
        self._running |= keys
        self.keys_at_once = max(self.keys_at_once, len(self._running))
        for _ in range(3):
            await asyncio.sleep(0)
        self._running -= keys
        self.done.append(jobs)

    def numbers(self, key: str) -> list[int]:
        return [number for jobs in self.done for one, number in jobs if one == key]


async def submit(per_key: KeyedWorkers[Job], keys: Sequence[str], each: int) -> None:
    for number in range(each):
        for key in keys:
            await per_key.submit(key, (key, number))


KEYS = [f"key-{number}" for number in range(250)]


async def test_jobs_of_one_key_are_done_in_the_order_they_came_and_never_two_at_once() -> None:
    work = Work()
    async with working(work) as per_key:
        await submit(per_key, KEYS[:10], 20)
        await finish(per_key)
    assert all(work.numbers(key) == list(range(20)) for key in KEYS[:10])
    assert work.keys_at_once == 4


async def test_jobs_of_one_group_run_together_up_to_a_hundred_in_the_order_of_their_keys() -> None:
    work = Work()
    async with working(work, group=lambda job: "all") as per_key:
        await submit(per_key, KEYS, 4)
        await finish(per_key)
    assert all(work.numbers(key) == [0, 1, 2, 3] for key in KEYS)
    assert max(map(len, work.done)) == 100
    assert len(work.done) < 40


async def test_groups_are_kept_apart_and_what_has_none_is_alone() -> None:
    def group(job: Job) -> Hashable | None:
        return {"a": "first", "b": "second"}.get(job[0][-1])

    keys = [f"{number}{name}" for number in range(30) for name in "abc"]
    work = Work()
    async with working(work, group=group) as per_key:
        await submit(per_key, keys, 2)
        await finish(per_key)
    assert all(work.numbers(key) == [0, 1] for key in keys)
    assert all(len({group(job) for job in jobs}) == 1 for jobs in work.done)
    assert all(len(jobs) == 1 for jobs in work.done if group(jobs[0]) is None)


async def test_a_key_whose_jobs_are_of_different_groups_keeps_its_order() -> None:
    work = Work()
    async with working(work, group=lambda job: job[1] % 3 or None) as per_key:
        await submit(per_key, KEYS[:20], 12)
        await finish(per_key)
    assert all(work.numbers(key) == list(range(12)) for key in KEYS[:20])


async def test_whoever_submits_more_than_it_holds_waits() -> None:
    work = Work()
    async with working(work, bound=5) as per_key:
        async with asyncio.timeout(10):
            await submit(per_key, KEYS[:50], 1)
        assert per_key.unfinished <= 5
        await finish(per_key)
    assert len(work.done) == 50


async def test_restrained_jobs_leave_workers_to_the_others_and_go_on_as_soon_as_one_is_done() -> None:
    go, held, done = asyncio.Event(), list[Job](), list[Job]()

    async def work(jobs: Sequence[Job]) -> None:
        (job,) = jobs
        if job[0].startswith("slow"):
            held.append(job)
            await go.wait()
        done.append(job)

    async with working(work, restrained=lambda job: job[0].startswith("slow")) as per_key:
        await submit(per_key, [f"slow {number}" for number in range(100)], 2)
        await submit(per_key, KEYS[:50], 2)
        async with asyncio.timeout(10):
            while len(done) < 100:  # noqa: ASYNC110  # its workers change it
                await asyncio.sleep(0)
        assert len(held) == 2, "two of four workers, however many wait"
        go.set()
        for _ in range(2_000):  # turns of the loop, and no time passes: nobody waits for a clock
            await asyncio.sleep(0)
        assert len(done) == 300
    assert all([no for key, no in done if key == one] == [0, 1] for one in {key for key, _ in done})


async def test_a_job_that_becomes_restrained_makes_room_for_others_when_it_comes_again() -> None:
    tries = dict[Job, int]()

    async def work(jobs: Sequence[Job]) -> dict[Job, float]:
        (job,) = jobs
        tries[job] = tries.get(job, 0) + 1
        await asyncio.sleep(0)
        return {job: 0.0} if tries[job] < 3 else {}

    async with working(work, restrained=lambda job: tries.get(job, 0) == 1) as per_key:
        await submit(per_key, KEYS[:30], 2)
        await finish(per_key)
    assert len(tries) == 60
    assert set(tries.values()) == {3}
