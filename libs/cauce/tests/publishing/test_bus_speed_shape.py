"""What makes the bus quick, as facts that do not depend on a clock: work that nobody needs is not done."""

from typing import Any

import pytest
from cauce import Bus, Context, DomainEvent, Envelope, on
from cauce.listeners import listener as listeners_module


class Turned(DomainEvent, name="shape.turned"):
    number: int = 0


class Made:
    """Counts the envelopes made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = Envelope.of

        def counting(*args: Any, **kwargs: Any) -> Envelope:
            self.count += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(Envelope, "of", staticmethod(counting))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(monkeypatch)


async def test_an_event_whose_envelope_nobody_asks_for_gets_none(made: Made) -> None:
    heard: list[Turned] = []

    @on(Turned)
    def hear(event: Turned) -> None:
        heard.append(event)

    bus = Bus([hear])
    bus.emit(Turned())
    await bus.publish(Turned())

    assert len(heard) == 2
    assert made.count == 0


async def test_however_many_listeners_ask_an_event_gets_one_envelope(made: Made) -> None:
    ids: list[str] = []

    @on(Turned, name="first")
    def first(event: Turned) -> None:
        pass

    @on(Turned, name="second")
    def second(event: Turned, context: Context) -> None:
        ids.append(context.event_id)

    @on(Turned, name="third")
    def third(event: Turned, envelope: Envelope) -> None:
        ids.append(envelope.id)

    bus = Bus([first, second, third])
    bus.emit(Turned())
    await bus.publish(Turned())

    assert (ids[0], ids[2]) == (ids[1], ids[3])
    assert ids[0] != ids[2]
    assert made.count == 2


async def test_who_hears_an_event_is_found_once_until_somebody_subscribes(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[object] = []
    heard: list[str] = []
    original = listeners_module.Listener.hears

    def hears(self: Any, event_type: Any) -> Any:
        searches.append(event_type)
        return original(self, event_type)

    monkeypatch.setattr(listeners_module.Listener, "hears", hears)

    @on("shape.*", kind=DomainEvent)
    def by_pattern(event: DomainEvent) -> None:
        heard.append("by pattern")

    @on(Turned)
    def late(event: Turned) -> None:
        heard.append("late")

    bus = Bus([by_pattern])
    searches.clear()
    for _ in range(3):
        bus.emit(Turned())
        await bus.publish(Turned())
    assert len(searches) == 2, "once for emit, once for publish"

    bus.subscribe(late)
    bus.emit(Turned())
    assert heard[-2:] == ["late", "by pattern"]


@pytest.mark.parametrize("way", ["emit", "publish"])
async def test_what_is_asked_for_arrives_wherever_the_parameter_stands(way: str) -> None:
    given: dict[str, list[object]] = {}

    @on(Turned, name="by place")
    def by_place(event: Turned, context: Context) -> None:
        given["by place"] = [context]

    @on(Turned, name="by name only")
    def by_name(event: Turned, *, envelope: Envelope) -> None:
        given["by name only"] = [envelope]

    @on(Turned, name="behind another")
    def behind(event: Turned, colour: str = "red", context: Context | None = None, *, own: Context) -> None:
        given["behind another"] = [colour, own]

    @on(Turned, name="both")
    def both(event: Turned, envelope: Envelope, context: Context) -> None:
        given["both"] = [envelope, context]

    class Methods:
        @on(Turned, name="method")
        def method(self, event: Turned, context: Context) -> None:
            given["method"] = [context]

    bus = Bus([by_place, by_name, behind, both, Methods()])
    if way == "emit":
        bus.emit(Turned())
    else:
        await bus.publish(Turned())

    [envelope] = given["by name only"]
    assert isinstance(envelope, Envelope)

    def context(listener: str) -> Context:
        return Context(envelope=envelope, listener=listener)

    assert given == {
        "by place": [context("by place")],
        "by name only": [envelope],
        "behind another": ["red", context("behind another")],
        "both": [envelope, context("both")],
        "method": [context("method")],
    }
