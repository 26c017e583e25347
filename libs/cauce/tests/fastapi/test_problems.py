"""Every error of an application as a problem document."""

import json
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

import httpx
import pytest
from cauce import CommitUnknownError
from cauce.errors import OutboxFullError
from cauce.fastapi import problems
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, SecretStr
from sqlalchemy.exc import OperationalError
from starlette.responses import Response, StreamingResponse


class Song(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    songs: list[Song]
    password: SecretStr


def failing_app() -> FastAPI:
    app = FastAPI(responses=problems.responses(400, 413, 415, 422, 500, 503))

    @app.post("/songs")
    async def songs(body: Body, limit: Annotated[int, Query(ge=1)] = 1) -> int:
        return len(body.songs[:limit])

    @app.get("/raise/{what}")
    async def fail(what: str) -> None:
        raise {
            "problem": problems.Problem(
                409,
                "Taken",
                "It is taken.",
                errors=[problems.invalid("/name", "is taken")],
                headers={"x-a": "b"},
                more=1,
            ),
            "commit": CommitUnknownError(),
            "full": OutboxFullError(1000, 1000),
            "database": OperationalError("SELECT 1", {}, Exception("server closed the connection")),
            "unexpected": RuntimeError("hunter2"),
        }[what]

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def lines() -> AsyncGenerator[bytes]:
            yield b"first line"
            raise RuntimeError("too late")

        return StreamingResponse(lines())

    problems.install(app)
    return app


@pytest.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(failing_app()), base_url="http://test") as client:
        yield client


def document(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["title"]
    assert found["type"] == "about:blank"
    return found


async def test_every_wrong_field_is_named_by_its_json_pointer_or_parameter(http: httpx.AsyncClient) -> None:
    body = {"songs": [{"title": "a"}, {"title": 1, "a/b~c": 2}], "x": 1}
    answer = await http.post("/songs?limit=0", json=body)

    errors = document(answer, 422)["errors"]
    assert {(error["in"], error["path"]) for error in errors} == {
        ("query", "limit"),
        ("body", "/songs/1/title"),
        ("body", "/songs/1/a~1b~0c"),
        ("body", "/password"),
        ("body", "/x"),
    }


async def test_a_single_wrong_field_is_in_the_detail_too(http: httpx.AsyncClient) -> None:
    answer = await http.post("/songs", json={"songs": []})

    assert document(answer, 422)["detail"] == "/password: Field required"


async def test_the_value_of_a_wrong_field_is_never_repeated(http: httpx.AsyncClient) -> None:
    body = {"songs": ["hunter2", {"title": ["hunter2"]}], "password": ["hunter2"]}
    answer = await http.post("/songs", json=body)

    assert document(answer, 422)
    assert "hunter2" not in answer.text


async def test_a_thousand_errors_are_not_a_thousand_lines(http: httpx.AsyncClient) -> None:
    answer = await http.post("/songs", json={"songs": [1] * 1000, "password": "x"})

    found = document(answer, 422)
    assert len(found["errors"]) == 20
    assert "1000" in found["detail"]


async def test_a_field_whose_name_is_not_text_is_answered_all_the_same(http: httpx.AsyncClient) -> None:
    answer = await http.post("/songs", content=b'{"\\ud800": 1}', headers={"content-type": "application/json"})

    assert document(answer, 422)


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b"nope"])
async def test_what_is_no_json_is_400(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/songs", content=body, headers={"content-type": "application/json"})

    assert document(answer, 400)


async def test_json_that_is_not_called_so_is_415(http: httpx.AsyncClient) -> None:
    assert document(await http.post("/songs", content=b"{}"), 415)
    assert document(await http.post("/songs", content=b"{}", headers={"content-type": "text/plain"}), 415)


async def test_the_router_s_own_errors_are_problem_documents_too(http: httpx.AsyncClient) -> None:
    assert document(await http.get("/nowhere"), 404)
    assert (await http.get("/songs")).headers["allow"] == "POST"
    assert document(await http.get("/songs"), 405)["detail"] == "GET is not possible here."


async def test_a_method_of_the_client_s_own_is_not_repeated(http: httpx.AsyncClient) -> None:
    said = document(await http.request("SECRET" * 50, "/songs"), 405)["detail"]
    assert said == "This method is not possible here."


async def test_a_problem_raised_below_becomes_the_answer(http: httpx.AsyncClient) -> None:
    answer = await http.get("/raise/problem")

    found = document(answer, 409)
    assert found["errors"] == [{"in": "body", "path": "/name", "detail": "is taken"}]
    assert (found["title"], found["detail"], found["more"]) == ("Taken", "It is taken.", 1)
    assert answer.headers["x-a"] == "b"


@pytest.mark.parametrize("what", ["commit", "database", "full"])
async def test_what_may_succeed_later_is_503_with_a_time(
    http: httpx.AsyncClient, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.get(f"/raise/{what}")

    assert document(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_an_unexpected_error_is_logged_once_and_hidden_from_the_client(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.get("/raise/unexpected")

    assert document(answer, 500)
    assert "hunter2" not in answer.text
    assert "RuntimeError" not in answer.text
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "/raise/{what}" in record.getMessage()


async def test_an_error_after_the_first_bytes_breaks_the_answer_off(http: httpx.AsyncClient) -> None:
    with pytest.raises(Exception, match="too late"):
        await http.get("/half")


async def test_the_openapi_page_shows_the_documents_and_nothing_of_the_framework_s(http: httpx.AsyncClient) -> None:
    page = (await http.get("/openapi.json")).json()

    answers = page["paths"]["/songs"]["post"]["responses"]
    assert set(answers) == {"200", "400", "413", "415", "422", "500", "503"}
    assert set(answers["422"]["content"]) == {"application/problem+json"}
    schemas = page["components"]["schemas"]
    assert "ProblemDocument" in schemas
    assert "in" in schemas["FieldError"]["properties"]
    assert "HTTPValidationError" not in json.dumps(page)


def test_an_application_that_only_wants_a_transaction_loads_no_sql() -> None:
    program = "import sys; from cauce.fastapi import Tx, problems; print('sqlalchemy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error_to_anybody(
    caplog: pytest.LogCaptureFixture, wrapped: bool
) -> None:
    app = FastAPI()

    @app.post("/read")
    async def read(request: Request) -> None:
        await request.body()

    problems.install(app)
    if wrapped:  # Starlette makes a RuntimeError of no answer at all

        @app.middleware("http")
        async def wrap(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            return await call_next(request)

    came: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return came.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/read", "headers": [], "query_string": b""}
    with caplog.at_level(logging.INFO):
        await app(scope, receive, send)

    assert [one["status"] for one in sent if one["type"] == "http.response.start"] == [400]
    assert caplog.records == []
