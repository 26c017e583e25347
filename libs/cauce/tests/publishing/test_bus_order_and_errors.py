"""The bus inside one process: who is called, in which order, and whose error reaches whom."""

import asyncio
import threading
import types
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cauce import (
    Bus,
    ConfigurationError,
    Context,
    DomainEvent,
    Envelope,
    IntegrationEvent,
    ListenersFailedError,
    PublishError,
    on,
)
from cauce.publishing.bus import _MAX_PLANS  # pyright: ignore[reportPrivateUsage]  # the bound itself is what is tested


class Played(DomainEvent, name="bus.song.played"):
    title: str = "Entre dos aguas"


class Paused(DomainEvent, name="bus.song.paused"):
    pass


class Left(DomainEvent, name="bus.user.left"):
    pass


class Sold(IntegrationEvent, name="bus.sold", version=1, source="bus-ms"):
    pass


Publish = Callable[[Bus, DomainEvent], Awaitable[None]]


async def emit(bus: Bus, event: DomainEvent) -> None:
    bus.emit(event)


async def publish(bus: Bus, event: DomainEvent) -> None:
    await bus.publish(event)


both_ways = pytest.mark.parametrize("tell", [emit, publish])


@both_ways
async def test_those_who_named_the_event_come_first_and_each_group_in_order_of_registration(tell: Publish) -> None:
    called: list[str] = []

    @on("bus.**", kind=DomainEvent)
    def widest(event: DomainEvent) -> None:
        called.append("widest")

    @on(Played)
    def by_class(event: Played) -> None:
        called.append("by_class")

    @on("bus.song.*", kind=DomainEvent)
    def narrow(event: DomainEvent) -> None:
        called.append("narrow")

    @on("bus.song.played", kind=DomainEvent)
    def by_name(event: DomainEvent) -> None:
        called.append("by_name")

    @on("bus.user.*", kind=DomainEvent)
    def another(event: DomainEvent) -> None:
        called.append("another")

    await tell(Bus([widest, by_class, narrow, by_name, another]), Played())
    assert called == ["by_class", "by_name", "widest", "narrow"]

    called.clear()
    await tell(Bus([by_name, another, narrow, by_class, widest]), Played())
    assert called == ["by_name", "by_class", "narrow", "widest"]


@both_ways
async def test_later_subscribers_come_after_earlier_ones(tell: Publish) -> None:
    called: list[str] = []

    @on(Played)
    def first(event: Played) -> None:
        called.append("first")

    @on(Played)
    def second(event: Played) -> None:
        called.append("second")

    bus = Bus([first])
    await tell(bus, Played())
    bus.subscribe(second)
    await tell(bus, Played())
    assert called == ["first", "first", "second"]


@both_ways
async def test_all_run_and_their_errors_come_together_in_their_order(tell: Publish) -> None:
    called: list[str] = []

    @on(Played)
    def first(event: Played) -> None:
        called.append("first")
        raise ValueError("one")

    @on(Played)
    def second(event: Played) -> None:
        called.append("second")

    @on(Played)
    def third(event: Played) -> None:
        called.append("third")
        raise KeyError("three")

    with pytest.raises(ListenersFailedError) as caught:
        await tell(Bus([first, second, third]), Played())

    assert called == ["first", "second", "third"]
    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('one')", "KeyError('three')"]
    assert caught.value.event_name == "bus.song.played"
    assert str(caught.value) == "2 listeners of bus.song.played failed (2 sub-exceptions)"


@both_ways
async def test_one_error_is_a_group_of_one_which_except_star_can_split(tell: Publish) -> None:
    @on(Played)
    def fails(event: Played) -> None:
        raise ValueError("no")

    caught: list[BaseException] = []
    try:
        await tell(Bus([fails]), Played())
    except* ValueError as group:
        caught.append(group)
    [group] = caught
    assert isinstance(group, ListenersFailedError)
    assert str(group) == "a listener of bus.song.played failed (1 sub-exception)"
    assert [repr(error) for error in group.exceptions] == ["ValueError('no')"]


@both_ways
async def test_a_listeners_error_of_its_own_nested_publishing_stays_one_error(tell: Publish) -> None:
    @on(Paused)
    def fails(event: Paused) -> None:
        raise ValueError("deep")

    @on(Played)
    def nests(event: Played) -> None:
        bus.emit(Paused())

    @on(Played)
    def fails_too(event: Played) -> None:
        raise ValueError("shallow")

    bus = Bus([fails, nests, fails_too])
    with pytest.raises(ListenersFailedError) as caught:
        await tell(bus, Played())
    inner, shallow = caught.value.exceptions
    assert isinstance(inner, ListenersFailedError)
    assert inner.event_name == "bus.song.paused"
    assert str(shallow) == "shallow"


@both_ways
async def test_an_interrupt_is_not_collected(tell: Publish) -> None:
    called: list[str] = []

    @on(Played)
    def interrupted(event: Played) -> None:
        raise KeyboardInterrupt

    @on(Played)
    def after(event: Played) -> None:
        called.append("after")

    with pytest.raises(KeyboardInterrupt):
        await tell(Bus([interrupted, after]), Played())
    assert called == []


async def test_publish_awaits_in_turn_so_the_second_starts_when_the_first_has_ended() -> None:
    steps: list[str] = []

    @on(Played)
    async def slow(event: Played) -> None:
        steps.append("slow begins")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        steps.append("slow ends")

    @on(Played)
    def quick(event: Played) -> None:
        steps.append("quick")

    await Bus([slow, quick]).publish(Played())
    assert steps == ["slow begins", "slow ends", "quick"]


async def test_cancelling_a_publish_stops_it_where_it_is() -> None:
    called: list[str] = []

    @on(Played)
    async def waits(event: Played) -> None:
        await asyncio.Event().wait()

    @on(Played)
    def after(event: Played) -> None:
        called.append("after")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Bus([waits, after]).publish(Played())
    assert called == []


async def test_a_blocking_listener_runs_in_a_thread_and_the_loop_continues() -> None:
    loop_moved = threading.Event()
    threads: list[threading.Thread] = []

    @on(Played, blocking=True)
    def blocks(event: Played) -> None:
        threads.append(threading.current_thread())
        assert loop_moved.wait(5)

    async def move() -> None:
        loop_moved.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Bus([blocks]).publish(Played()))
        tasks.create_task(move())
    assert threads != [threading.current_thread()]


def test_emit_refuses_whom_it_cannot_wait_for_before_anybody_runs() -> None:
    called: list[str] = []

    @on(Played)
    def plain(event: Played) -> None:
        called.append("plain")

    @on(Played, name="mail")
    async def waits(event: Played) -> None: ...

    @on(Paused, name="disk", blocking=True)
    def blocks(event: Paused) -> None: ...

    bus = Bus([plain, waits, blocks])
    with pytest.raises(PublishError) as caught:
        bus.emit(Played())
    assert str(caught.value) == "mail is async, and emit() cannot wait for it. Use: await bus.publish(…)"
    with pytest.raises(PublishError) as caught:
        bus.emit(Paused())
    assert str(caught.value) == "disk blocks, and emit() cannot wait for it. Use: await bus.publish(…)"
    assert called == []


@both_ways
async def test_what_is_no_domain_event_is_refused_with_the_way_out(tell: Publish) -> None:
    class Bare:
        pass

    bus: Any = Bus()
    with pytest.raises(PublishError) as caught:
        await tell(bus, Bare())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake itself
    assert str(caught.value) == "publish(Bare): Bare is not an event. Derive it from DomainEvent or IntegrationEvent."
    with pytest.raises(PublishError) as caught:
        await tell(bus, Played)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake itself
    assert str(caught.value) == "publish(Played): Played is the class; publish one of it: Played(…)."
    with pytest.raises(PublishError) as caught:
        await tell(bus, Sold())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake itself
    assert str(caught.value) == (
        "Sold is an integration event: it is for other services, and a Bus ends with this process. "
        "Publish it in a service's transaction."
    )


@both_ways
async def test_an_event_without_a_listener_is_no_error(tell: Publish) -> None:
    await tell(Bus(), Played())


@both_ways
async def test_a_subclass_is_an_event_of_its_own(tell: Publish) -> None:
    class PlayedLoud(Played, name="bus.song.played-loud"):
        pass

    called: list[str] = []

    @on(Played)
    def by_class(event: Played) -> None:
        called.append("by_class")

    @on("bus.song.*", kind=DomainEvent)
    def by_pattern(event: DomainEvent) -> None:
        called.append("by_pattern")

    await tell(Bus([by_class, by_pattern]), PlayedLoud())
    assert called == ["by_pattern"]


@both_ways
async def test_context_and_envelope_are_given_to_those_who_ask_under_any_parameter_name(tell: Publish) -> None:
    seen: list[Any] = []

    @on(Played)
    def first(event: Played, what_is_around: Context, letter: Envelope, more: int = 7) -> None:
        seen.extend([what_is_around, letter, more])

    @on(Played, name="second")
    def second(event: Played, context: Context) -> None:
        seen.append(context)

    @on(Played)
    def third(event: Played, context: "Context | None" = None) -> None:
        seen.append(context)

    await tell(Bus([first, second, third], source="player"), Played())
    context, letter, more, other, optional = seen
    assert context.envelope is letter is other.envelope is optional.envelope
    assert (letter.name, letter.source, more) == ("bus.song.played", "player", 7)
    assert other.listener == "second"
    assert context.listener.endswith("first")


@both_ways
async def test_a_bus_may_grow_while_it_publishes(tell: Publish) -> None:
    called: list[str] = []

    @on(Played)
    def late(event: Played) -> None:
        called.append("late")

    @on(Played)
    def grows(event: Played) -> None:
        called.append("grows")
        if "late" not in called and called.count("grows") == 1:
            bus.subscribe(late)

    bus = Bus([grows])
    await tell(bus, Played())
    assert called == ["grows"]
    await tell(bus, Played())
    assert called == ["grows", "grows", "late"]


def test_a_refused_subscription_changes_nothing() -> None:
    called: list[str] = []

    @on(Played)
    def fine(event: Played) -> None:
        called.append("fine")

    bus = Bus([fine])
    with pytest.raises(ConfigurationError):
        bus.subscribe(fine)
    bus.emit(Played())
    assert called == ["fine"]


def test_what_is_remembered_per_event_class_is_bounded() -> None:
    bus = Bus()
    for number in range(_MAX_PLANS + 10):
        made = types.new_class(f"E{number}", (DomainEvent,), {"name": f"bus.many-{number}"})
        bus.emit(made())
    plans: Any = bus._sync_plans  # pyright: ignore[reportPrivateUsage]  # the bound itself is what is tested
    assert len(plans) <= _MAX_PLANS


def test_a_pattern_is_compared_once_per_event_class(monkeypatch: pytest.MonkeyPatch) -> None:
    from cauce.events import names

    compared: list[str] = []
    original = names.matches

    def counting(pattern: str, name: str) -> bool:
        compared.append(name)
        return original(pattern, name)

    @on("bus.**", kind=DomainEvent)
    def hear(event: DomainEvent) -> None: ...

    bus = Bus([hear])
    monkeypatch.setattr(names, "matches", counting)
    for _ in range(5):
        bus.emit(Played())
    assert compared == ["bus.song.played"]
