"""What surrounds an event, and how it finds its cause: through nested handling, tasks and threads."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cauce import Bus, Context, DomainEvent, Envelope, IntegrationEvent, Service, Transaction, current_envelope, on
from cauce.events.envelope import MAX_ID_LENGTH, Emission, current_emission
from cauce.testing import story
from cauce.transports.memory import MemoryTransport
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Began(DomainEvent, name="causes.began"):
    number: int = 0


class Went(DomainEvent, name="causes.went", key="number"):
    number: int | None = 0


class Ended(IntegrationEvent, name="causes.ended", version=3, source="causes-ms", key="number"):
    number: int = 0


def envelope(**changes: Any) -> Envelope:
    values: dict[str, Any] = {
        "id": "1",
        "source": "a-ms",
        "name": "causes.began",
        "version": 1,
        "occurred_on": NOON,
        "payload": Began(),
        "correlation_id": "1",
    }
    return Envelope(**(values | changes))


def test_the_first_of_a_chain_is_its_own_conversation() -> None:
    made = Envelope.of(Ended(number=7), source="ignored", occurred_on=NOON, id="e-1")
    assert made == Envelope(
        id="e-1",
        source="causes-ms",
        name="causes.ended",
        version=3,
        occurred_on=NOON,
        payload=Ended(number=7),
        correlation_id="e-1",
        causation_id=None,
        key="7",
    )


def test_ids_made_here_sort_by_time_and_times_are_utc() -> None:
    several = [Envelope.of(Began()) for _ in range(50)]
    assert [one.id for one in several] == sorted(one.id for one in several)
    assert {one.id[14] for one in several} == {"7"}
    assert all(one.occurred_on.utcoffset() == timedelta(0) for one in several)
    assert datetime.now(UTC) - several[0].occurred_on < timedelta(minutes=1)


def test_a_key_without_a_value_is_no_key() -> None:
    assert Envelope.of(Went(number=None)).key is None
    assert Envelope.of(Went(number=0)).key == "0"


@pytest.mark.parametrize("field", ["id", "correlation_id", "causation_id"])
@pytest.mark.parametrize(("text", "fits"), [("x", True), ("x" * 128, True), ("x" * 129, False), ("", False)])
def test_ids_have_1_to_128_characters(field: str, text: str, fits: bool) -> None:
    if fits:
        assert getattr(envelope(**{field: text}), field) == text
    else:
        with pytest.raises(ValueError, match="ids have 1 to 128 characters"):
            envelope(**{field: text})


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="must be aware"):
        envelope(occurred_on=datetime(2026, 3, 1))  # noqa: DTZ001


@given(
    ids=st.lists(st.text(min_size=1, max_size=MAX_ID_LENGTH), min_size=2, max_size=6, unique=True),
    trace=st.none() | st.text(max_size=60),
)
def test_a_chain_keeps_its_conversation_and_names_each_direct_cause(ids: list[str], trace: str | None) -> None:
    first = envelope(id=ids[0], correlation_id="conversation", traceparent=trace)
    chain = [first]
    for id_ in ids[1:]:
        chain.append(Envelope.of(Went(), source="a-ms", cause=chain[-1], id=id_))
    assert [one.id for one in chain] == ids
    assert {one.correlation_id for one in chain} == {"conversation"}
    assert [one.causation_id for one in chain] == [None, *ids[:-1]]
    assert {one.traceparent for one in chain} == {trace}


# Causes, on a bus


def test_outside_a_listener_there_is_no_current_envelope() -> None:
    assert current_envelope() is None


def test_what_a_listener_publishes_is_caused_by_what_it_hears() -> None:
    seen: list[Envelope] = []

    @on(Began)
    def go(event: Began) -> None:
        bus.emit(Went())

    @on(Went, Began)
    def look(event: Went | Began, envelope: Envelope) -> None:
        seen.append(envelope)

    bus = Bus([go, look], source="here")
    bus.emit(Began())

    went, began = seen
    assert (went.name, began.name) == ("causes.went", "causes.began")
    assert (went.causation_id, went.correlation_id) == (began.id, began.id)
    assert began.causation_id is None
    assert {one.source for one in seen} == {"here"}
    assert current_envelope() is None


def test_the_cause_happened_no_later_than_its_effect() -> None:
    moments: list[datetime] = []

    @on(Began)
    def go(event: Began) -> None:
        bus.emit(Went())

    @on(Went)
    def look(event: Went, envelope: Envelope) -> None:
        current = current_emission.get()
        assert current is not None
        assert current.outer is not None
        moments.extend([current.outer.envelope.occurred_on, envelope.occurred_on])

    bus = Bus([go, look])
    bus.emit(Began())
    assert moments == sorted(moments)


async def test_siblings_share_their_cause_in_gather_tasks_and_threads() -> None:
    seen: list[Envelope] = []

    @on(Began)
    async def go(event: Began) -> None:
        def from_a_thread() -> None:
            bus.emit(Went(number=3))

        async def from_a_task(number: int) -> None:
            await asyncio.sleep(0)
            bus.emit(Went(number=number))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(from_a_task(1))
            tasks.create_task(from_a_task(2))
            tasks.create_task(asyncio.to_thread(from_a_thread))
        await asyncio.gather(from_a_task(4), from_a_task(5))

    @on(Went)
    def look(event: Went, envelope: Envelope) -> None:
        seen.append(envelope)

    @on(Began)
    def look_at_the_cause(event: Began, envelope: Envelope) -> None:
        seen.insert(0, envelope)

    bus = Bus([go, look, look_at_the_cause])
    await bus.publish(Began())

    began, *went = seen
    assert {one.causation_id for one in went} == {began.id}
    assert {one.correlation_id for one in went} == {began.id}
    assert len({one.id for one in went}) == 5


async def test_a_blocking_listener_finds_its_cause_in_the_thread() -> None:
    seen: list[tuple[str, Envelope | None]] = []

    @on(Began, blocking=True)
    def look(event: Began, context: Context) -> None:
        seen.append((threading.current_thread().name, current_envelope()))
        assert current_envelope() == context.envelope

    await Bus([look]).publish(Began())
    [(thread, found)] = seen
    assert thread != threading.current_thread().name
    assert found is not None
    assert found.payload == Began()


async def test_a_task_that_outlives_its_listener_keeps_the_cause() -> None:
    seen: list[Envelope] = []
    go_on = asyncio.Event()

    @on(Began)
    async def start(event: Began, envelope: Envelope) -> None:
        seen.append(envelope)

        async def later() -> None:
            await go_on.wait()
            bus.emit(Went())

        tasks.create_task(later())

    @on(Went)
    def look(event: Went, envelope: Envelope) -> None:
        seen.append(envelope)

    bus = Bus([start, look])
    async with asyncio.TaskGroup() as tasks:
        await bus.publish(Began())
        assert current_envelope() is None
        go_on.set()
    assert seen[1].causation_id == seen[0].id


def test_threads_that_ask_at_once_get_one_envelope(monkeypatch: pytest.MonkeyPatch) -> None:
    """The envelope is made late; two threads that need it together must not make two."""
    both = threading.Barrier(2, timeout=1)
    original = Envelope.of

    def slowly(*args: Any, **kwargs: Any) -> Envelope:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.05)
        return original(*args, **kwargs)

    monkeypatch.setattr(Envelope, "of", staticmethod(slowly))
    emission = Emission(Began())
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(emission.envelope.id)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


# Causes, through services


@contextmanager
def counted() -> Generator[Any]:
    numbers = iter(range(1, 1000))
    yield lambda: f"id-{next(numbers)}"


async def test_correlation_and_causation_cross_services_by_themselves() -> None:
    class Answered(IntegrationEvent, name="causes.answered", version=1, source="other-ms"):
        number: int = 0

    found: list[Context] = []

    @on(Began)
    async def pass_on(event: Began, tx: Transaction) -> None:
        await tx.publish(Went(number=event.number))

    @on(Went)
    async def tell_others(event: Went, tx: Transaction) -> None:
        await tx.publish(Ended(number=event.number or 0))

    @on(Ended)
    async def answer(event: Ended, tx: Transaction, context: Context) -> None:
        found.append(context)
        await tx.publish(Answered(number=event.number))

    @on(Answered)
    async def hear(event: Answered, context: Context) -> None:
        found.append(context)

    broker = MemoryTransport()
    with counted() as new_id:
        one = Service(
            "causes-ms",
            modules=[pass_on, tell_others, hear],
            transport=broker,
            publishes=[Ended],
            new_id=new_id,
            clock=lambda: NOON,
        )
        other = Service("other-ms", modules=[answer], transport=broker, publishes=[Answered])
        async with story(one, other) as s:
            await s.publish(Began())
            await s.handled(hear)

    ended, answered = (context.envelope for context in found)
    assert (ended.id, ended.causation_id, ended.correlation_id) == ("id-3", "id-2", "id-1")
    assert (answered.causation_id, answered.correlation_id) == ("id-3", "id-1")
    assert ended.occurred_on == NOON
    assert [context.channel for context in found] == ["causes.ended", "causes.answered"]
    assert [context.source for context in found] == ["causes-ms", "other-ms"]
    assert [context.listener.rpartition(".")[2] for context in found] == ["answer", "hear"]


async def test_without_a_transaction_the_services_own_clock_and_ids_are_used_too() -> None:
    seen: list[Envelope] = []

    @on(Began)
    def look(event: Began, envelope: Envelope) -> None:
        seen.append(envelope)

    with counted() as new_id:
        await Service("causes-ms", modules=[look], new_id=new_id, clock=lambda: NOON).publish(Began())
    assert [(one.id, one.occurred_on) for one in seen] == [("id-1", NOON)]


def test_a_context_can_be_made_by_hand() -> None:
    context = Context.of(Ended(number=1), channel="somewhere")
    assert (context.source, context.name, context.attempt) == ("causes-ms", "causes.ended", 1)
    assert (context.channel, context.headers, context.listener) == ("somewhere", {}, "")
    assert context.event_id == context.envelope.id

    whole = Context(envelope=envelope(id="mine"), channel="c", attempt=2, headers={"a": "b"}, listener="l")
    assert (whole.event_id, whole.headers["a"], whole.attempt) == ("mine", "b", 2)
    assert Context.of(Began(), source="by-hand").source == "by-hand"


# Events that cause each other for ever are not all remembered, and whoever asks still gets a cause


def held() -> int:
    """How many emissions can be reached from here, this one included."""
    count, emission = 0, current_emission.get()
    while emission is not None:
        count, emission = count + 1, emission.outer
    return count


async def test_a_bus_whose_events_cause_each_other_in_tasks_forgets_the_old_ones() -> None:
    reachable: list[int] = []
    asked: list[Envelope] = []

    @on(Went)
    def again(event: Went) -> None:
        reachable.append(held())
        number = event.number or 0
        if number < 3000:

            async def later() -> None:
                bus.emit(Went(number=number + 1) if number < 2999 else Began())

            tasks.create_task(later())

    @on(Began)
    def ask(event: Began, envelope: Envelope) -> None:
        asked.append(envelope)

    bus = Bus([again, ask])
    async with asyncio.TaskGroup() as tasks:
        bus.emit(Went(number=0))

    assert len(reachable) == 3000
    assert max(reachable) <= 3
    [envelope] = asked
    assert envelope.causation_id
    assert envelope.correlation_id not in (envelope.id, envelope.causation_id)


async def test_a_service_whose_events_cause_each_other_after_commits_forgets_the_old_ones() -> None:
    reachable: list[int] = []
    conversations: set[str] = set()

    @on(Went, when="after_commit")
    async def again(event: Went, tx: Transaction, context: Context) -> None:
        reachable.append(held())
        conversations.add(context.envelope.correlation_id)
        if (number := event.number or 0) < 200:
            await tx.publish(Went(number=number + 1))

    async with Service("causes-ms", modules=[again]) as service:
        async with service.transaction() as tx:
            await tx.publish(Went(number=0))
        await service.idle()
    assert len(reachable) == 201
    assert max(reachable) <= 2
    assert len(conversations) == 1
