"""A JSON body means one thing to every reader, or it is refused."""

import httpx
import pytest
from cauce.fastapi import StrictJsonRoute, problems
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel


class Body(BaseModel):
    a: float | dict[str, int]


def app() -> FastAPI:
    router = APIRouter(route_class=StrictJsonRoute)

    @router.post("/")
    async def echo(body: Body) -> Body:
        return body

    made = FastAPI()
    made.include_router(router)
    problems.install(made)
    return made


async def answer_to(body: str | bytes) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://test") as http:
        return await http.post("/", content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"a": 1, "a": 2}', "the same key twice"),
        ('{"a": 1, "\\u0061": 1}', "the same key twice"),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "the same key twice"),
        ('{"a": 1, "x": [{"b": 1, "b": 1}]}', "the same key twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "NaN or Infinity"),
        ('{"a": 1e400}', "too large"),
        ('{"a": {"b": -1e400}}', "too large"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        ('{"a": 1}'.encode("utf-32-be"), "not JSON"),
        (b'{"a": 1, "\xed\xa0\x80": 1}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-8-sig"), "not JSON"),
        ('{"a": 1', "not JSON"),
    ],
)
async def test_a_body_that_could_mean_two_things_is_answered_400_with_the_reason(body: str | bytes, said: str) -> None:
    answer = await answer_to(body)

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]


@pytest.mark.parametrize("body", ['{"a": 1.5}', '{"a": {"b": 1, "B": 2}}', ' {"a": {}}\n'])
async def test_any_other_body_is_read_as_ever(body: str) -> None:
    assert (await answer_to(body)).status_code == 200
