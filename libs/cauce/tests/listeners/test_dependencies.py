"""What listeners need: made with a transaction or without one, entered and left if it was written with `yield`."""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest
from cauce import (
    AtLeastOnce,
    AtMostOnce,
    ConfigurationError,
    DomainEvent,
    Retry,
    Service,
    Transaction,
    on,
)
from cauce.stores.memory import MemoryStore
from testsupport.waiting import until

ONCE = Retry(attempts=1)


class Came(DomainEvent, name="needs.came"):
    pass


class Mailer:
    def __init__(self, tx: Transaction | None = None) -> None:
        self.tx = tx


class Case:
    """Listeners that need a Mailer, and what happened."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.steps: list[str] = []
        self.mailers: list[Mailer] = []
        self._error = error

    def called(self, mailer: Mailer) -> None:
        self.mailers.append(mailer)
        self.steps.append("called")
        if self._error is not None:
            raise self._error


class InTransaction(Case):
    @on(Came)
    async def came(self, event: Came, mailer: Mailer) -> None:
        self.called(mailer)


class AfterCommit(Case):
    @on(Came, when="after_commit")
    async def came(self, event: Came, mailer: Mailer) -> None:
        self.called(mailer)


class Durable(Case):
    @on(Came, when="durable", retry=ONCE)
    async def came(self, event: Came, mailer: Mailer) -> None:
        self.called(mailer)


class Outside(Case):
    @on(Came, when="durable", retry=ONCE, effect=AtLeastOnce())
    async def came(self, event: Came, mailer: Mailer) -> None:
        self.called(mailer)


class OutsideAtMostOnce(Case):
    @on(Came, when="durable", retry=Retry(attempts=2, base=0.001, cap=0.001), effect=AtMostOnce())
    async def came(self, event: Came, mailer: Mailer) -> None:
        self.called(mailer)


class Threaded(Case):
    @on(Came, when="durable", retry=ONCE, blocking=True)
    def came(self, event: Came, mailer: Mailer) -> None:
        self.called(mailer)


async def settled(case: Case, store: MemoryStore, **options: Any) -> Service:
    """Publish one event and wait for the listener's outcome."""
    service = Service("needs-ms", modules=[case], store=store, **options)
    async with service:
        async with service.transaction() as tx:
            await tx.publish(Came())
        await until(lambda: bool(case.steps) or service.counters["dead"] > 0)
        await until(lambda: service.unfinished == 0)
    return service


@pytest.mark.parametrize("kind", [InTransaction, AfterCommit, Durable, Outside, Threaded])
async def test_a_factory_that_takes_nothing_needs_no_transaction(kind: type[Case]) -> None:
    mailer, case = Mailer(), kind()
    await settled(case, MemoryStore(), provide={Mailer: lambda: mailer})
    assert case.mailers == [mailer]


async def test_an_async_factory_and_a_class_without_arguments_need_none_either() -> None:
    class Clock: ...

    seen: list[object] = []

    @on(Came, when="durable", effect=AtLeastOnce())
    async def came(event: Came, mailer: Mailer, clock: Clock) -> None:
        seen.extend((mailer, clock))

    async def make() -> Mailer:
        return Mailer()

    service = Service("needs-ms", modules=[came], store=MemoryStore(), provide={Mailer: make, Clock: Clock})
    async with service:
        async with service.transaction() as tx:
            await tx.publish(Came())
        await until(lambda: len(seen) == 2)
    assert [type(one) for one in seen] == [Mailer, Clock]


def test_an_effect_that_needs_something_of_a_transaction_is_refused_at_start() -> None:
    @on(Came, when="durable", effect=AtLeastOnce(), name="both")
    async def both(event: Came, tx: Transaction, mailer: Mailer) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        Service("needs-ms", modules=[both], store=MemoryStore(), provide={Mailer: lambda tx: Mailer(tx)})
    assert [problem.partition(" · ")[0] for problem in caught.value.problems] == [
        (
            "both needs Transaction ('tx'), which belongs to a transaction, and effect=… is called without one; change "
            "the tables in another listener, which publishes what this one is to do"
        ),
        (
            "both needs Mailer ('mailer'), which belongs to a transaction, and effect=… is called without one; if it "
            "needs none, provide it without: provide={Mailer: lambda: …}"
        ),
    ]


def test_an_effect_that_only_a_container_could_serve_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match=r"provide it without: provide=\{Mailer: lambda: …\}"):
        Service("needs-ms", modules=[Outside()], store=MemoryStore(), resolver=lambda wanted, tx: wanted())


def test_a_factory_that_needs_more_than_the_transaction_is_refused_at_start() -> None:
    def make(tx: Transaction, host: str) -> Mailer:
        return Mailer(tx)

    factory: Any = make
    with pytest.raises(ConfigurationError, match=r"provide\[Mailer\] takes several arguments"):
        Service("needs-ms", modules=[Durable()], store=MemoryStore(), provide={Mailer: factory})


async def test_what_a_container_does_not_have_leaves_the_default() -> None:
    seen: list[int] = []

    @on(Came)
    async def came(event: Came, times: int = 3) -> None:
        seen.append(times)

    def resolve(wanted: type[Any], tx: Transaction) -> object:
        raise LookupError(wanted.__name__)

    service = Service("needs-ms", modules=[came], resolver=resolve)
    async with service, service.transaction() as tx:
        await tx.publish(Came())
    assert seen == [3]


# With an end

Make = Callable[[Case], Callable[..., Any]]


def _async_generator(case: Case) -> Callable[..., Any]:
    async def make(tx: Transaction) -> AsyncGenerator[Mailer]:
        case.steps.append("entered")
        try:
            yield Mailer(tx)
        finally:
            case.steps.append("left")

    return make


def _generator(case: Case) -> Callable[..., Any]:
    def make(tx: Transaction) -> Generator[Mailer]:
        case.steps.append("entered")
        try:
            yield Mailer(tx)
        finally:
            case.steps.append("left")

    return make


def _async_generator_of_nothing(case: Case) -> Callable[..., Any]:
    async def make() -> AsyncGenerator[Mailer]:
        case.steps.append("entered")
        try:
            yield Mailer()
        finally:
            case.steps.append("left")

    return make


def _async_block(case: Case) -> Callable[..., Any]:
    return asynccontextmanager(_async_generator_of_nothing(case))


def _block(case: Case) -> Callable[..., Any]:
    @contextmanager
    def make() -> Generator[Mailer]:
        case.steps.append("entered")
        try:
            yield Mailer()
        finally:
            case.steps.append("left")

    return make


IN_A_TRANSACTION = [_async_generator, _generator, _async_generator_of_nothing, _async_block, _block]
WITHOUT = [_async_generator_of_nothing, _async_block, _block]
CASES = [(kind, make) for kind in (InTransaction, AfterCommit, Durable) for make in IN_A_TRANSACTION] + [
    (kind, make) for kind in (Outside, Threaded) for make in WITHOUT
]


@pytest.mark.parametrize(("kind", "make"), CASES)
async def test_a_dependency_written_with_yield_is_entered_and_left(kind: type[Case], make: Make) -> None:
    case = kind()
    await settled(case, MemoryStore(), provide={Mailer: make(case)})
    assert case.steps == ["entered", "called", "left"]
    assert [type(one) for one in case.mailers] == [Mailer]


@pytest.mark.parametrize("make", WITHOUT)
@pytest.mark.parametrize("kind", [AfterCommit, Durable, Outside, Threaded])
@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)], ids=["ValueError", "SystemExit"])
async def test_it_is_left_when_the_listener_fails(kind: type[Case], make: Make, error: BaseException) -> None:
    case = kind(error)
    service = await settled(case, MemoryStore(), provide={Mailer: make(case)})
    assert case.steps == ["entered", "called", "left"]
    assert service.counters["handled"] == 0


@pytest.mark.parametrize("make", WITHOUT)
async def test_a_publisher_whose_listener_fails_has_left_it_before_the_error_arrives(make: Make) -> None:
    case = InTransaction(ValueError("no"))
    service = Service("needs-ms", modules=[case], provide={Mailer: make(case)})
    async with service:
        with pytest.raises(ValueError, match="no"):
            async with service.transaction() as tx:
                await tx.publish(Came())
    assert case.steps == ["entered", "called", "left"]


@pytest.mark.parametrize("kind", [Durable, Outside, Threaded])
@pytest.mark.parametrize("error", [OSError("cannot hang up"), SystemExit(3)], ids=["OSError", "SystemExit"])
async def test_an_error_at_its_end_is_a_failed_attempt_and_the_listeners_change_is_undone(
    kind: type[Case], error: BaseException
) -> None:
    async def make() -> AsyncGenerator[Mailer]:
        yield Mailer()
        raise error

    case, store = kind(), MemoryStore()
    service = await settled(case, store, provide={Mailer: make})
    assert (service.counters["handled"], service.counters["dead"]) == (0, 1)
    [letter] = await store.message_store().dead()
    assert ("cannot hang up" if isinstance(error, OSError) else "SystemExit") in letter.error


async def test_an_error_at_the_end_of_a_requests_transaction_rolls_it_back() -> None:
    async def make() -> AsyncGenerator[Mailer]:
        yield Mailer()
        raise OSError("cannot hang up")

    after = AfterCommit()
    service = Service("needs-ms", modules=[after], provide={Mailer: make})
    async with service:
        with pytest.raises(OSError, match="cannot hang up"):
            async with service.transaction() as tx:
                await tx.get(Mailer)
                await tx.publish(Came())
        await service.idle()
    assert after.steps == []


async def test_a_dependency_that_swallows_the_error_does_not_make_the_event_handled() -> None:
    async def make() -> AsyncGenerator[Mailer]:
        with suppress(ValueError):
            yield Mailer()

    for kind in (Durable, Outside):
        case, store = kind(ValueError("no")), MemoryStore()
        service = await settled(case, store, provide={Mailer: make})
        assert (service.counters["handled"], service.counters["dead"]) == (0, 1)


async def test_an_effect_whose_dependency_cannot_be_made_has_surely_not_happened() -> None:
    """So it is tried again, also at most once."""
    tries: list[int] = []

    def make() -> Mailer:
        tries.append(1)
        raise ConnectionRefusedError("mail server")

    store = MemoryStore()
    await settled(OutsideAtMostOnce(), store, provide={Mailer: make})
    [letter] = await store.message_store().dead()
    assert (letter.reason, letter.attempts, len(tries)) == ("exhausted", 2, 2)
    assert "ConnectionRefusedError" in (letter.stack or "")


async def test_a_shared_client_is_handed_over_as_it_is() -> None:
    class Client(Mailer):
        async def __aenter__(self) -> "Client":
            raise AssertionError("entered")

        async def __aexit__(self, *_: object) -> None:
            raise AssertionError("left")

    client, case = Client(), Outside()
    await settled(case, MemoryStore(), provide={Mailer: lambda: client})
    assert case.mailers == [client]


# Context variables

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def test_context_variables_of_the_publisher_are_the_same_before_and_after_the_commit() -> None:
    seen: dict[str, str] = {}

    @on(Came)
    async def at_publish(event: Came) -> None:
        seen["at publish"] = tenant.get()

    @on(Came, when="after_commit")
    async def after(event: Came, mailer: Mailer) -> None:
        seen["after"] = tenant.get()
        tenant.set("somebody else")

    @on(Came, when="after_commit", blocking=True)
    def in_a_thread(event: Came) -> None:
        seen["in a thread"] = tenant.get()

    def make(tx: Transaction) -> Mailer:
        seen["in a factory"] = tenant.get()
        return Mailer(tx)

    service = Service("needs-ms", modules=[at_publish, after, in_a_thread], provide={Mailer: make})
    async with service:
        for name in ("ana", "bea"):
            tenant.set(name)
            async with service.transaction() as tx:
                await tx.publish(Came())
            tenant.set("later")
            await service.idle()
            assert seen == dict.fromkeys(("at publish", "in a factory", "after", "in a thread"), name)
            seen.clear()
