"""Listeners as people write them: whatever gives something to await is awaited, or what cannot work is refused."""
# Many listeners here are written as the type checker would not have it.
# pyright: reportArgumentType=false, reportCallIssue=false, reportUnknownParameterType=false
# pyright: reportUnknownLambdaType=false, reportMissingParameterType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownVariableType=false, reportUnknownMemberType=false

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from cauce import (
    Bus,
    ConfigurationError,
    DefinitionError,
    DomainEvent,
    IntegrationEvent,
    ListenersFailedError,
    Retry,
    Service,
    Transaction,
    on,
)
from cauce.stores.memory import MemoryStore
from cauce.transports.memory import MemoryTransport
from cauce.transports.memory_streams import MemoryStreams
from fastapi import Depends, Query, Security
from testsupport.waiting import until


class Played(DomainEvent, name="written.played"):
    song: str = ""


class Sold(IntegrationEvent, name="written.sold", version=1, source="shop-ms"):
    pass


done: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


async def send(event: object) -> None:
    await asyncio.sleep(0)
    done.append("sent")


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as it is often written: without functools.wraps."""

    def wrapper(event: object) -> Any:
        return function(event)

    return wrapper


def returns_a_coroutine(event: object) -> Any:
    return send(event)


def returns_a_task(event: object) -> Any:
    return asyncio.get_running_loop().create_task(send(event))


async def forgets_to_await(event: object) -> Any:
    return send(event)


class Sends:
    async def __call__(self, event: object) -> None:
        await send(event)


WRITTEN: dict[str, Callable[[], Callable[..., Any]]] = {
    "a plain function that returns a coroutine": lambda: functools.wraps(returns_a_coroutine)(
        lambda event: returns_a_coroutine(event)
    ),
    "a lambda": lambda: lambda event: send(event),
    "a decorator without wraps": lambda: unwrapped(send),
    "a plain function that returns a task": lambda: lambda event: returns_a_task(event),
    "an async function that forgets to await": lambda: unwrapped(forgets_to_await),
    "a partial of an async function": lambda: functools.partial(send),
    "a partial of an object that can be called": lambda: functools.partial(Sends()),
}


@pytest.fixture(params=WRITTEN)
def written(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return WRITTEN[request.param]()


async def test_on_a_bus_it_is_awaited(written: Callable[..., Any]) -> None:
    await Bus([on(Played)(written)]).publish(Played())
    assert done == ["sent"]


@pytest.mark.parametrize("when", ["in_transaction", "after_commit", "durable"])
async def test_in_a_service_it_is_awaited_before_the_event_counts_as_handled(
    written: Callable[..., Any], when: Any
) -> None:
    async with Service("written-ms", modules=[on(Played, when=when)(written)], store=MemoryStore()) as service:
        async with service.transaction() as tx:
            await tx.publish(Played())
        await until(lambda: bool(done))
        await service.idle()
    assert done == ["sent"]


@pytest.mark.parametrize("transport", [MemoryTransport, MemoryStreams])
async def test_what_comes_from_a_broker_is_awaited_too(
    written: Callable[..., Any], transport: Callable[[], Any]
) -> None:
    service = Service(
        "shop-ms",
        modules=[on(Sold)(written)],
        store=MemoryStore(),
        transport=transport(),
        publishes=[Sold],
        start="retained",
    )
    async with service:
        await service.publish(Sold(), outside=True)
        await until(lambda: service.counters["handled"] == 1)
    assert done == ["sent"]


async def test_what_a_thread_returns_is_awaited_on_the_loop() -> None:
    def plain(event: Played) -> Any:
        return send(event)

    await Bus([on(Played, blocking=True)(plain)]).publish(Played())
    assert done == ["sent"]


async def test_a_call_handed_to_an_executor_is_waited_for() -> None:
    with ThreadPoolExecutor(1) as threads:

        def plain(event: Played) -> Any:
            return threads.submit(done.append, "in the thread")

        await Bus([on(Played)(plain)]).publish(Played())
        assert done == ["in the thread"]


async def test_from_plain_code_what_would_have_to_be_awaited_has_failed() -> None:
    with pytest.raises(ListenersFailedError) as caught:
        Bus([on(Played, name="later")(lambda event: send(event))]).emit(Played())
    assert [str(one) for one in caught.value.exceptions] == [
        "later returned something to await, and emit() cannot wait. Use: await bus.publish(…)"
    ]
    assert done == []


# Generators


def yields(event: object) -> Any:
    yield done.append("never")


async def ayields(event: object) -> Any:
    yield done.append("never")


LAZY: dict[str, tuple[Callable[[object], Any], str]] = {
    "generator": (lambda event: yields(event), "generator"),
    "async generator": (lambda event: ayields(event), "async_generator"),
    "map": (lambda event: map(done.append, ["never"]), "map"),
}


@pytest.mark.parametrize("kind", LAZY)
@pytest.mark.parametrize("blocking", [False, True])
async def test_a_listener_that_returns_what_never_runs_is_a_dead_letter_and_not_handled(
    kind: str, blocking: bool
) -> None:
    returned, label = LAZY[kind]
    store = MemoryStore()
    lazy = on(Played, when="durable", name="lazy", retry=Retry(attempts=1), blocking=blocking)(
        functools.partial(returned)  # one of its own for every test
    )
    async with Service("written-ms", modules=[lazy], store=store) as service:
        async with service.transaction() as tx:
            await tx.publish(Played())
        await until(lambda: service.counters["dead"] == 1)
        [letter] = await store.message_store().dead()
    assert letter.error == (
        f"CauceError: lazy returned a {label}, and nothing of it has run: go through it, or remove the yield"
    )
    assert (done, service.counters["handled"]) == ([], 0)


def test_on_a_bus_a_returned_generator_is_an_error() -> None:
    with pytest.raises(ListenersFailedError) as caught:
        Bus([on(Played, name="lazy")(lambda event: yields(event))]).emit(Played())
    assert "lazy returned a generator" in str(caught.value.exceptions[0])


@pytest.mark.parametrize("generator", [yields, ayields])
def test_a_partial_of_a_generator_is_refused_at_start(generator: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="is a generator, so calling it would run nothing; remove the yield"):
        Bus([on(Played)(functools.partial(generator))])


# Partials, methods, objects


async def mail(host: str, event: Played, sender: str = "nobody", tx: Transaction | None = None) -> None:
    done.append(f"{host} {sender} {event.song} {tx is not None}")


async def test_a_partial_keeps_what_it_was_given_and_gets_the_rest() -> None:
    written = on(Played, name="mail")(functools.partial(mail, "localhost", sender="ana"))
    service = Service("written-ms", modules=[written], provide={str: lambda: "provided"})
    async with service, service.transaction() as tx:
        await tx.publish(Played(song="Volare"))
    assert done == ["localhost ana Volare True"]


def test_a_partial_in_a_module_is_found() -> None:
    made = ModuleType("golden_partials")
    made.hear = on(Played)(functools.partial(lambda word, event: done.append(word), "a"))  # type: ignore[attr-defined]
    Bus([made]).emit(Played())
    assert done == ["a"]


def test_two_partials_of_one_function_need_two_names() -> None:
    with pytest.raises(ConfigurationError, match='give one a name of its own: @on\\(…, name="…"\\)'):
        Bus([on(Played)(functools.partial(send)), on(Played)(functools.partial(send))])


class Desk:
    def hear(self, event: Played) -> None: ...

    @on(Played)
    def marked(self, event: Played) -> None: ...

    @staticmethod
    @on(Played, name="static")
    def static(event: Played) -> None:
        done.append("static")

    @classmethod
    @on(Played, name="of class")
    def of_class(cls, event: Played) -> None:
        done.append(cls.__name__)


class Calls:
    def __call__(self, event: Played) -> None: ...


@pytest.mark.parametrize(
    ("listener", "message"),
    [
        (
            Desk().hear,
            (
                "@on(hear): a method of an object cannot be marked; write @on(…) above it in its class, and register the "
                "object"
            ),
        ),
        (str.upper, "@on(upper): it cannot be marked; write a function that calls it"),
        (print, "@on is for functions and methods, and print is neither"),
        (functools.partialmethod(send), None),
        (property(send), None),
        (Calls(), None),
    ],
    ids=["bound method", "method of a built-in", "built-in", "partialmethod", "property", "object"],
)
def test_what_cannot_be_marked_is_refused_with_the_way_out(listener: Any, message: str | None) -> None:
    with pytest.raises(DefinitionError) as caught:
        on(Played)(listener)
    assert str(caught.value) == message or str(caught.value).startswith("@on is for functions and methods, and ")


def test_static_and_class_methods_can_be_given_themselves() -> None:
    Bus([Desk.static, Desk.of_class]).emit(Played())
    assert done == ["static", "Desk"]


def test_a_method_without_its_object_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Service("written-ms", modules=[Desk.marked])
    assert "it is a method, and its object is missing; register the object: modules=[Desk(…)]" in str(caught.value)


def test_parameters_hidden_by_a_decorator_are_refused_with_the_way_out() -> None:
    def deco(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    with pytest.raises(ConfigurationError) as caught:
        Bus([on(Played)(deco(send))])
    assert "its parameters are hidden behind *args" in str(caught.value)
    assert "add @functools.wraps to it" in str(caught.value)


@pytest.mark.parametrize("default", [Depends(send), Security(send), Query()], ids=["Depends", "Security", "Query"])
def test_a_default_that_fastapi_would_fill_is_refused_with_the_way_out(default: Any) -> None:
    class Repository: ...

    @on(Played, name="web")
    async def web(event: Played, songs: Repository = default) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        Service("written-ms", modules=[web], provide={Repository: lambda: Repository()})
    kind = type(default).__name__
    assert f"the parameter 'songs' has FastAPI's {kind}(…) as its default, which is for requests" in str(caught.value)
    assert "provide={TheType: lambda tx: …}" in str(caught.value)


# What a thread raises


@pytest.mark.parametrize("raised", [StopIteration, StopAsyncIteration, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_whatever_a_thread_raises_is_a_failed_attempt(
    raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    @on(Played, when="durable", name="threaded", blocking=True, retry=Retry(attempts=2, base=0.01, cap=0.01))
    def threaded(event: Played) -> None:
        raise raised

    caplog.set_level(logging.CRITICAL, "cauce.applying")
    store = MemoryStore()
    async with Service("written-ms", modules=[threaded], store=store) as service:
        async with service.transaction() as tx:
            await tx.publish(Played())
        await until(lambda: service.counters["dead"] == 1)
        [letter] = await store.message_store().dead()
        assert service.running
    assert letter.attempts == 2
    assert raised.__name__ in letter.error
    assert "in threaded" in (letter.stack or "")


async def test_on_a_bus_stop_iteration_out_of_a_thread_does_not_hang() -> None:
    @on(Played, blocking=True, name="threaded")
    def threaded(event: Played) -> None:
        next(iter(()))

    with pytest.raises(ListenersFailedError) as caught:
        async with asyncio.timeout(5):
            await Bus([threaded]).publish(Played())
    assert str(caught.value.exceptions[0]) == "threaded raised StopIteration: next() found nothing more"
