"""A blocking listener whose thread outlives its limit: its event waits for the thread, and nothing else does."""

import threading
from collections import Counter

import pytest
from cauce import AtLeastOnce, IntegrationEvent, Retry, Service, on
from cauce.listeners import threads
from cauce.stores.memory import MemoryStore
from cauce.transports.memory_streams import MemoryStreams
from testsupport.waiting import until


class Cut(IntegrationEvent, name="mill.cut", version=1, key="log", source="mill"):
    log: str
    stuck: bool = False


class Saw:
    """Its threads wait until they are let go of."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most = 0
        self._lock = threading.Lock()

    def cut(self, event: Cut) -> None:
        with self._lock:
            self.began[event.log] += 1
            self.at_once[event.log] += 1
            self.most = max(self.most, self.at_once[event.log])
        if event.stuck and self.began[event.log] == 1:
            self.go.wait(60)
        with self._lock:
            self.at_once[event.log] -= 1


@pytest.mark.parametrize("effect", [None, AtLeastOnce()], ids=["in the inbox", "effect"])
async def test_no_attempt_begins_beside_a_thread_that_still_runs_and_other_keys_go_on(
    effect: AtLeastOnce | None,
) -> None:
    saw = Saw()

    @on(Cut, blocking=True, limit_s=0.1, retry=Retry(attempts=3, base=0.01, cap=0.02), effect=effect)
    def cut(event: Cut) -> None:
        saw.cut(event)

    store = MemoryStore()
    service = Service("mill", modules=[cut], publishes=[Cut], store=store, transport=MemoryStreams(), start="retained")
    async with service:
        try:
            async with service.transaction() as tx:
                for number in range(10):  # more than there are workers
                    await tx.publish(Cut(log=f"stuck{number}", stuck=True))
                    await tx.publish(Cut(log=f"stuck{number}"))
                for number in range(20):
                    await tx.publish(Cut(log=f"good{number}"))
            await until(lambda: service.counters["handled"] == 20, "the other keys are handled")
            # Ten attempts ran out of time, ten events wait behind them, and the rest are looks at threads that still run.
            await until(lambda: service.counters["waiting"] >= 40, "the stuck ones were due again, twice")
            assert all(saw.began[f"stuck{number}"] == 1 for number in range(10)), "beside none of them another began"
            assert len(threads.stuck_threads()) == 10
            assert service.readiness() == {}, "most threads are free"
        finally:
            saw.go.set()
        await until(lambda: service.counters["handled"] == 40, "and then they are tried again, in order")
    assert saw.most == 1
    assert threads.stuck_threads() == []


async def test_when_half_of_the_threads_are_stuck_the_service_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    @on(Cut, blocking=True, limit_s=0.05, retry=Retry(attempts=2, base=0.01, cap=0.01))
    def hang(event: Cut) -> None:
        go.wait(60)

    service = Service(
        "mill", modules=[hang], publishes=[Cut], store=MemoryStore(), transport=MemoryStreams(), start="retained"
    )
    async with service:
        try:
            async with service.transaction() as tx:
                for number in range(threads.SIZE // 2):
                    await tx.publish(Cut(log=f"stuck{number}"))
            await until(lambda: len(threads.stuck_threads()) == threads.SIZE // 2, "half of them are stuck")
            await until(lambda: "threads of blocking listeners do not end" in str(service.readiness()))
        finally:
            go.set()
        await until(lambda: "threads" not in service.readiness())


async def test_two_services_of_a_process_hear_the_same_event_at_once() -> None:
    meeting = threading.Barrier(2, timeout=30)

    @on(Cut, blocking=True, name="meet")
    def meet(event: Cut) -> None:
        meeting.wait()

    broker = MemoryStreams()
    mill = Service("mill", publishes=[Cut], store=MemoryStore(), transport=broker)
    hearing = [
        Service(name, modules=[meet], store=MemoryStore(), transport=broker, start="retained") for name in ("a", "b")
    ]
    async with mill, hearing[0], hearing[1]:
        async with mill.transaction() as tx:
            await tx.publish(Cut(log="one"))
        await until(lambda: all(one.counters["handled"] == 1 for one in hearing))
    assert [one.counters["waiting"] for one in hearing] == [0, 0]
