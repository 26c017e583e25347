"""`@on`: what may listen, and what is refused, when it is written or when a bus or service starts."""
# Most listeners here are wrong on purpose, and would not pass the type checker.
# pyright: reportArgumentType=false, reportCallIssue=false, reportUnknownParameterType=false
# pyright: reportUnknownLambdaType=false, reportUntypedClassDecorator=false, reportMissingParameterType=false, reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable
from math import inf, nan
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from cauce import (
    AtMostOnce,
    Bus,
    ConfigurationError,
    Context,
    DefinitionError,
    DomainEvent,
    IntegrationEvent,
    Retry,
    Service,
    on,
)
from cauce.transports.memory import MemoryTransport

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTheChecker


class Played(DomainEvent, name="listen.song.played"):
    pass


class Paused(DomainEvent, name="listen.song.paused"):
    pass


class Sold(IntegrationEvent, name="listen.sold", version=1, source="shop-ms", earlier_names=("listen.bought",)):
    pass


def problems_of(*things: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        Bus(things)
    return caught.value.problems


def problems_of_service(*things: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        Service("shop-ms", modules=things, transport=MemoryTransport())
    return caught.value.problems


def place(function: Any) -> str:
    code = inspect.unwrap(getattr(function, "__func__", function)).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda: on(), "@on() hears nothing. Name an event class: @on(UserCreated)"),
        (
            lambda: on(Played, when="later"),
            "@on(when='later'): when is one of 'in_transaction', 'after_commit', 'durable'",
        ),
        (
            lambda: on(Sold, when="after_commit"),
            (
                "@on(…, when='after_commit'): integration events are heard when they arrive from another service, in a "
                "transaction of their own; leave `when` out"
            ),
        ),
        (
            lambda: on(Played, Sold),
            "@on: one listener hears domain events or integration events, not both; write two @on lines",
        ),
        (
            lambda: on("listen.song.*"),
            "@on('listen.song.*'): say which kind: kind=DomainEvent or kind=IntegrationEvent",
        ),
        (
            lambda: on("listen.song.*", kind=Played),
            "@on('listen.song.*'): say which kind: kind=DomainEvent or kind=IntegrationEvent",
        ),
        (
            lambda: on(Played, kind=IntegrationEvent),
            "@on(Played, kind=IntegrationEvent): Played is a DomainEvent",
        ),
        (
            lambda: on(int),
            "@on(int): not an event. Derive the class from DomainEvent or IntegrationEvent, or give a name with kind=…",
        ),
        (
            lambda: on(Played()),
            (
                "@on(Played()): not an event. Derive the class from DomainEvent or IntegrationEvent, or give a name with "
                "kind=…"
            ),
        ),
        (
            lambda: on(DomainEvent),
            (
                "DomainEvent has no wire name, so it cannot be published or heard. Declare it as class "
                'DomainEvent(Event, name="…").'
            ),
        ),
    ],
    ids=range(10),
)
def test_what_can_be_seen_at_the_decorator_is_refused_there(write: Callable[[], object], message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        write()
    assert str(caught.value) == message


NO_NAME = "1 to 200 printable characters, without a space at either end"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"effect": AtMostOnce}, ", effect=AtMostOnce): write effect=AtLeastOnce() or effect=AtMostOnce()"),
        ({"effect": "once"}, ", effect='once'): write effect=AtLeastOnce() or effect=AtMostOnce()"),
        ({"retry": 5}, ", retry=5): write retry=Retry(attempts=…)"),
        ({"retry": 0}, ", retry=0): write retry=Retry(attempts=…)"),
        ({"retry": Retry}, ", retry=Retry): write retry=Retry(attempts=…)"),
        *(
            ({"limit_s": limit_s}, f", limit_s={limit_s!r}): seconds, more than 0, and 604800 (a week) at most")
            for limit_s in (0, -1, nan, inf, 604_801, None, "30")
        ),
        *(
            (said, f"): {name!r} is no name of a listener: {NO_NAME}")
            for name in ("", " a", "a\nb", "a\0b", "a\ud800", 5)
            for said in ({"name": name}, {"earlier_names": (name,)})
        ),
    ],
    ids=str,
)
def test_what_no_event_could_be_handled_with_is_refused_there(said: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        on(Sold, **said)
    assert str(caught.value) == f"@on(…{message}"


@pytest.mark.parametrize(
    "said",
    [{"limit_s": 0.001}, {"limit_s": 604_800}, {"retry": None, "effect": None, "name": None}, {"name": "día · 1/2"}],
    ids=str,
)
def test_what_is_at_the_edge_is_taken(said: dict[str, Any]) -> None:
    def listen(event: Sold) -> None: ...

    assert on(Sold, **said)(listen) is listen


def test_only_functions_and_methods_can_be_decorated() -> None:
    with pytest.raises(DefinitionError, match=r"^@on is for functions and methods, and Welcome is neither$"):

        @on(Played)
        class Welcome: ...

    with pytest.raises(DefinitionError, match=r"^@on is for functions and methods, and print is neither$"):
        on(Played)(print)


@pytest.mark.parametrize("wrapper", [staticmethod, classmethod])
def test_on_goes_beneath_staticmethod_and_classmethod(wrapper: Any) -> None:
    def listen(*args: Any) -> None: ...

    with pytest.raises(DefinitionError) as caught:
        on(Played)(wrapper(listen))
    assert str(caught.value) == f"@on above @{wrapper.__name__} is not seen; write @on(…) beneath it"


def test_the_decorated_function_is_handed_back_unchanged() -> None:
    def listen(event: Played) -> str:
        return "heard"

    assert on(Played)(listen) is listen
    assert listen(Played()) == "heard"


# What a module, a function, an object holds


def module(name: str, **members: object) -> ModuleType:
    made = ModuleType(name)
    for key, value in members.items():
        if getattr(value, "__module__", None) == __name__:
            value.__module__ = name  # type: ignore[attr-defined]
        setattr(made, key, value)
    return made


def test_a_modules_own_listeners_are_found_once_in_written_order_but_not_imported_ones() -> None:
    called: list[str] = []

    @on(Played)
    def b(event: Played) -> None:
        called.append("b")

    @on(Played)
    def a(event: Played) -> None:
        called.append("a")

    @on(Played)
    def imported(event: Played) -> None:
        called.append("imported")

    made = module("golden_listeners", b=b, a=a, alias_of_b=b)
    imported.__module__ = "elsewhere"
    made.imported = imported  # type: ignore[attr-defined]

    Bus([made]).emit(Played())
    assert called == ["b", "a"]


def test_a_package_owns_the_listeners_of_its_submodules_that_it_imports() -> None:
    called: list[str] = []

    @on(Played)
    def inner(event: Played) -> None:
        called.append("inner")

    inner.__module__ = "golden_package.handlers"
    made = ModuleType("golden_package")
    made.inner = inner  # type: ignore[attr-defined]
    Bus([made]).emit(Played())
    assert called == ["inner"]


def test_a_thing_without_listeners_is_refused() -> None:
    def undecorated(event: Played) -> None: ...

    class Empty:
        def method(self, event: Played) -> None: ...

    class Welcome:
        @on(Played)
        def welcome(self, event: Played) -> None: ...

    assert problems_of(module("golden_empty"), undecorated, Empty(), Welcome) == (
        "golden_empty has no listener: no function of it is decorated with @on(…)",
        "undecorated has no listener: no function of it is decorated with @on(…)",
        "Empty has no listener: no function of it is decorated with @on(…)",
        "Welcome is a class; register an instance of it: Welcome(…)",
    )


def test_a_class_with_listeners_that_nobody_made_an_instance_of_is_noticed() -> None:
    class Welcome:
        @on(Played)
        def welcome(self, event: Played) -> None: ...

    @on(Paused)
    def pause(event: Paused) -> None: ...

    made = module("golden_classes", Welcome=Welcome, pause=pause)
    assert problems_of(made) == (
        "golden_classes.Welcome has listeners, and no instance of it is registered: modules=[…, Welcome(…)]",
    )
    Bus([made, Welcome()])


def test_methods_static_and_class_methods_and_inherited_ones_listen_on_their_object() -> None:
    called: list[object] = []

    class Base:
        @on(Played)
        def inherited(self, event: Played) -> None:
            called.append(("inherited", self))

        @on(Played)
        def overridden(self, event: Played) -> None:
            called.append("never")

    class Desk(Base):
        def overridden(self, event: Played) -> None:
            called.append("never: it is not decorated any more")

        @on(Played)
        def own(self, event: Played) -> None:
            called.append(("own", self))

        @staticmethod
        @on(Played)
        def static(event: Played) -> None:
            called.append("static")

        @classmethod
        @on(Played)
        def of_class(cls, event: Played) -> None:
            called.append(("of_class", cls))

    desk = Desk()
    Bus([desk]).emit(Played())
    assert called == [("inherited", desk), ("own", desk), "static", ("of_class", Desk)]

    called.clear()
    Bus([desk.own]).emit(Played())
    assert called == [("own", desk)]


def test_two_objects_of_one_class_need_two_names() -> None:
    class Desk:
        @on(Played)
        def own(self, event: Played) -> None: ...

    where = place(Desk.own)
    name = f"{__name__}.{Desk.own.__qualname__.replace('.<locals>', '')}"
    assert problems_of(Desk(), Desk()) == (
        f'two listeners are called {name}: {where} and {where}; give one a name of its own: @on(…, name="…")',
    )


def test_a_callable_object_listens_by_its_call_method() -> None:
    called: list[object] = []

    class Desk:
        @on(Played)
        def __call__(self, event: Played) -> None:
            called.append(self)

    desk = Desk()
    Bus([desk]).emit(Played())
    assert called == [desk]


# Several times


def test_several_classes_in_one_on_and_several_ons_on_one_function() -> None:
    called: list[str] = []

    @on(Played, Paused)
    def hear(event: Played | Paused) -> None:
        called.append(type(event).__name__)

    class Left(DomainEvent, name="listen.user.left"):
        pass

    class Came(DomainEvent, name="listen.user.came"):
        pass

    @on(Left, name="goodbye")
    @on(Came, name="hello")
    def door(event: Left | Came, context: Context) -> None:
        called.append(context.listener)

    bus = Bus([hear, door])
    for event in (Played(), Paused(), Left(), Came()):
        bus.emit(event)
    assert called == ["Played", "Paused", "goodbye", "hello"]


def test_registering_a_listener_twice_is_refused() -> None:
    @on(Played, name="listener")
    def hear(event: Played) -> None: ...

    twice = f"listener is registered twice for Played · {place(hear)}"
    assert problems_of(hear, hear) == (twice,)
    assert problems_of(module("golden_twice", hear=hear), hear) == (twice,)
    bus = Bus([hear])
    with pytest.raises(ConfigurationError) as caught:
        bus.subscribe(hear)
    assert caught.value.problems == (twice,)


def test_hearing_one_event_by_class_and_by_pattern_is_refused() -> None:
    @on(Played, name="listener")
    @on("listen.song.*", kind=DomainEvent, name="listener")
    def hear(event: DomainEvent) -> None: ...

    expected = (
        f"listener would be called twice for Played, by @on(Played) and by @on(listen.song.*); leave one out · "
        f"{place(hear)}"
    )
    assert problems_of(hear) == (expected,)
    assert problems_of_service(hear) == (expected,)


def test_before_and_after_the_commit_are_two_moments() -> None:
    @on(Played, when="in_transaction")
    @on(Played, when="after_commit")
    def hear(event: Played) -> None: ...

    service = Service("shop-ms", modules=[hear])
    assert [one.registration.when for one in service.listeners] == ["in_transaction", "after_commit"]
    assert "would be called twice" in problems_of(hear)[0]


# The wrong kind, the wrong name


def test_a_listener_written_for_another_event_is_refused() -> None:
    @on(Played, name="wrong")
    def wrong(event: Paused) -> None: ...

    @on(Played, Paused, name="half")
    def half(event: Played) -> None: ...

    @on("listen.song.*", kind=DomainEvent, name="narrow")
    def narrow(event: Played) -> None: ...

    @on("listen.song.played", kind=DomainEvent, name="exact")
    def exact(event: Played) -> None: ...

    assert problems_of(wrong, half, narrow, exact) == (
        f"wrong is registered for Played, and its event parameter is a Paused · {place(wrong)}",
        f"half is registered for Paused, and its event parameter is a Played · {place(half)}",
        (
            f"narrow is registered for 'listen.song.*', and its event parameter is a Played; name the class: @on(Played) · "
            f"{place(narrow)}"
        ),
        (
            f"exact is registered for 'listen.song.played', and its event parameter is a Played; name the class: "
            f"@on(Played) · {place(exact)}"
        ),
    )


def test_a_bus_refuses_listeners_of_integration_events_and_of_what_it_cannot_provide() -> None:
    class Repository: ...

    @on(Sold, name="sold")
    def sold(event: Sold) -> None: ...

    @on(Played, name="needs")
    def needs(event: Played, songs: Repository) -> None: ...

    assert problems_of(sold, needs) == (
        "sold hears integration events, which arrive over a transport; give it to a Service",
        "needs needs 'songs' (Repository), which a Bus cannot provide; give it to a Service",
    )


def test_a_name_no_event_has_is_refused_with_the_nearest() -> None:
    @on("listen.song.plaid", kind=DomainEvent, name="typo")
    def typo(event: DomainEvent) -> None: ...

    expected = (
        "typo hears 'listen.song.plaid', and no event known here has that name. Did you mean 'listen.song.played'? "
        f"Correct it, or import the event's class there · {place(typo)}"
    )
    assert problems_of(typo) == (expected,)
    assert problems_of_service(typo) == (expected,)


def test_an_integration_event_heard_by_name_is_found_where_the_listener_was_written() -> None:
    @on("listen.sold", kind=IntegrationEvent, name="sold")
    def sold(event: IntegrationEvent) -> None: ...

    assert Service("shop-ms", modules=[sold], transport=MemoryTransport()).hears == {"listen.sold"}

    @on("listen.bought", kind=IntegrationEvent, name="bought")
    def bought(event: IntegrationEvent) -> None: ...

    [problem] = problems_of_service(bought)
    assert "hears 'listen.bought', and no event known here has that name." in problem


# Types


def test_an_annotation_that_cannot_be_resolved_is_refused() -> None:
    @on(Played, name="broken")
    def broken(event: Played, number: "OnlyForTheChecker") -> None: ...

    [problem] = problems_of(broken)
    assert problem == (
        f"{__name__}.{broken.__qualname__.replace('.<locals>', '')}: a parameter's type cannot be resolved (name "
        f"'OnlyForTheChecker' is not defined); import it at module level, not under TYPE_CHECKING · {place(broken)}"
    )


def test_an_annotation_that_is_nonsense_is_refused_too() -> None:
    @on(Played)
    def nonsense(event: Played, number: "asyncio.NoSuchThing") -> None: ...  # type: ignore[name-defined]  # pyright: ignore[reportAttributeAccessIssue]

    [problem] = problems_of(nonsense)
    assert "a parameter's type cannot be resolved (module 'asyncio' has no attribute 'NoSuchThing')" in problem


def test_a_listener_takes_the_event_first_and_the_rest_by_name() -> None:
    @on(Played, name="bare")
    def bare() -> None: ...

    @on(Played, name="named")
    def named(*, event: Played) -> None: ...

    @on(Played, name="positional")
    def positional(event: Played, context: Context, /) -> None: ...

    found = problems_of(bare, named, positional)
    assert [problem.rpartition(": ")[2] for problem in found] == [
        f"a listener's first parameter is the event · {place(bare)}",
        f"a listener's first parameter is the event · {place(named)}",
        "the parameter 'context' is positional-only, and what a listener needs is given by name; remove the '/' · "
        + place(positional),
    ]


def test_blocking_is_for_plain_functions_and_generators_never_run() -> None:
    @on(Played, name="both", blocking=True)
    async def both(event: Played) -> None: ...

    @on(Played, name="yields")
    def yields(event: Played) -> Any:
        yield 1

    @on(Played, name="ayields")
    async def ayields(event: Played) -> Any:
        yield 1

    assert problems_of(both, yields, ayields) == (
        f"both: blocking=True is for plain functions; this one is async · {place(both)}",
        f"yields is a generator, so calling it would run nothing; remove the yield · {place(yields)}",
        f"ayields is a generator, so calling it would run nothing; remove the yield · {place(ayields)}",
    )


async def test_a_decorator_may_make_an_async_listener_of_a_plain_one_and_the_other_way_round() -> None:
    called: list[str] = []

    def asynchronous(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return function(*args, **kwargs)

        return wrapper

    def plain(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @asynchronous
    @on(Played)
    def above(event: Played) -> None:
        called.append("above")

    @on(Played)
    @asynchronous
    def beneath(event: Played) -> None:
        called.append("beneath")

    @on(Played)
    @plain
    async def made_plain(event: Played, context: Context) -> None:
        called.append("made_plain")

    await Bus([above, beneath, made_plain]).publish(Played())
    assert called == ["above", "beneath", "made_plain"]


def test_what_another_decorator_made_of_a_listener_still_listens() -> None:
    @functools.lru_cache
    @on(Played)
    def cached(event: Played) -> None:
        called.append("cached")

    called: list[str] = []
    made = module("golden_cached")
    cached.__module__ = "golden_cached"
    made.cached = cached  # type: ignore[attr-defined]
    Bus([made]).emit(Played())
    assert called == ["cached"]


def test_a_parameter_without_a_type_is_accepted_for_the_event_only() -> None:
    called: list[object] = []

    @on(Played)
    def untyped(event) -> None:  # type: ignore[no-untyped-def]
        called.append(event)

    @on(Played, name="asks")
    def asks(event: Played, something) -> None: ...  # type: ignore[no-untyped-def]

    Bus([untyped]).emit(Played())
    assert called == [Played()]
    assert problems_of_service(asks) == (f"asks: the parameter 'something' has no type to find it by · {place(asks)}",)


def test_everything_wrong_is_said_in_one_message() -> None:
    @on(Played, name="wrong")
    def wrong(event: Paused) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        Bus([wrong, 7])
    assert str(caught.value) == (
        "2 problems in the listeners:\n"
        "  · int has no listener: no function of it is decorated with @on(…)\n"
        f"  · wrong is registered for Played, and its event parameter is a Paused · {place(wrong)}"
    ) or set(caught.value.problems) == {
        "int has no listener: no function of it is decorated with @on(…)",
        f"wrong is registered for Played, and its event parameter is a Paused · {place(wrong)}",
    }


def test_importing_a_module_registers_nothing() -> None:
    assert not hasattr(sys.modules["cauce.listeners.on"], "registry")
    Bus().emit(Played())
