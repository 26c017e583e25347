"""A transaction may outlast the run of the service it began in: what it publishes belongs to the run that is on."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
from cauce import CauceError, DomainEvent, IntegrationEvent, PublishError, Service, on
from cauce.stores.memory import MemoryStore
from cauce.transports.memory import MemoryTransport
from cauce.transports.memory_streams import MemoryStreams
from testsupport.waiting import until


class Opened(DomainEvent, name="runs.opened"):
    no: int


class Announced(IntegrationEvent, name="runs.announced", version=1, source="runs"):
    no: int


TRANSPORTS = {"volatile": MemoryTransport, "durable": MemoryStreams}


@pytest.fixture(params=TRANSPORTS)
def made(request: pytest.FixtureRequest) -> tuple[Service, list[Any]]:
    handled: list[Any] = []

    @on(Opened, when="after_commit")
    async def after(event: Opened) -> None:
        handled.append(event)

    @on(Announced)
    async def arrived(event: Announced) -> None:
        handled.append(event)

    transport = TRANSPORTS[request.param]()
    modules = [after, arrived]
    service = Service(
        "runs", modules=modules, store=MemoryStore(), transport=transport, publishes=[Announced], start="now"
    )
    return service, handled


async def test_what_is_published_in_one_run_and_committed_in_the_next_is_handled(
    made: tuple[Service, list[Any]],
) -> None:
    service, handled = made
    async with AsyncExitStack() as open_:
        async with service:
            tx = await open_.enter_async_context(service.transaction())
            await tx.publish(Opened(no=1))
            await tx.publish(Announced(no=2))
        async with service:
            await open_.aclose()
            await until(lambda: sorted(event.no for event in handled) == [1, 2], "both are handled")
    assert not service.counters["lost"]


async def test_a_transaction_begun_before_the_start_publishes_after_it(made: tuple[Service, list[Any]]) -> None:
    service, handled = made
    async with AsyncExitStack() as open_:
        tx = await open_.enter_async_context(service.transaction())
        with pytest.raises(PublishError, match="runs is not running"):
            await tx.publish(Announced(no=0))
        async with service:
            await tx.publish(Announced(no=1))
            await open_.aclose()
            await until(lambda: [event.no for event in handled] == [1], "it is handled")


async def test_a_transaction_is_entered_once(made: tuple[Service, list[Any]]) -> None:
    service, _ = made
    transaction = service.transaction()
    async with transaction:
        with pytest.raises(CauceError, match="is entered once"):
            await transaction.__aenter__()
