"""A burst of requests goes in one by one, and others have their turn between."""

import asyncio

import httpx
from seedwork.turnstile import Turnstile
from starlette.responses import Response
from starlette.types import Receive, Scope, Send


async def test_between_two_requests_of_a_burst_the_loop_does_something_else() -> None:
    order: list[str] = []
    finish = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        order.append("request")
        await finish.wait()  # they wait for nobody's end, only for their turn
        await Response()(scope, receive, send)

    async def bystander() -> None:
        while order.count("request") < 50:
            order.append("bystander")
            await asyncio.sleep(0)
        finish.set()

    transport = httpx.ASGITransport(Turnstile(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http, asyncio.timeout(10):
        answers, _ = await asyncio.gather(asyncio.gather(*(http.get("/") for _ in range(50))), bystander())

    assert [answer.status_code for answer in answers] == [200] * 50
    assert ["request", "request"] not in [order[i : i + 2] for i in range(len(order))]


async def test_a_waiter_that_gives_up_in_the_queue_delays_no_other() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response()(scope, receive, send)

    transport = httpx.ASGITransport(Turnstile(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http, asyncio.timeout(10):
        asked = [asyncio.ensure_future(http.get("/")) for _ in range(10)]  # noqa: TID251  # to be cancelled
        await asyncio.sleep(0)
        for one in asked[:9]:
            one.cancel()
        await asyncio.wait(asked)

        assert (await asked[9]).status_code == 200
        assert (await http.get("/")).status_code == 200
