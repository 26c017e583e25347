"""Every error of an application as a problem document (RFC 9457), the same shape from every service.

`install(app)` is all that is needed. `Problem` is raised for an error of your own; `problem_response`, `responses` and
`invalid` are for handlers and for the OpenAPI page. What the client sent is never repeated in an answer.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPMethod, HTTPStatus
from importlib.util import find_spec
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cauce.errors import CommitUnknownError, OutboxFullError
from cauce.fastapi.problem_document import (
    FieldError,
    Problem,
    ProblemDocument,
    invalid,
    problem_response,
    responses,
    show_in_openapi,
)
from cauce.fastapi.strict_json import DUPLICATE_KEY, NOT_A_NUMBER, NOT_UTF_8, TOO_LARGE_A_NUMBER

__all__ = ["FieldError", "Problem", "ProblemDocument", "install", "invalid", "problem_response", "responses"]

_log = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 1
_MAX_ERRORS: Final = 20
_MAX_PATH: Final = 200


def install(app: FastAPI, *, log: logging.Logger = _log) -> None:
    """Answer every error of `app` with a problem document, the router's 404 and 405 included.

    A database that is not available, an outbox that is full and a commit whose outcome is unknown are answered 503 and
    logged as a warning. An unexpected exception is logged once, with its traceback, and answered 500 with nothing of it.
    Call it before the first request; middleware added later lies outside and is not covered.
    """
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation)
    unavailable = _Unavailable(log)
    app.add_exception_handler(CommitUnknownError, unavailable.commit_unknown)
    app.add_exception_handler(OutboxFullError, unavailable.outbox_full)
    for error in _database_errors():
        app.add_exception_handler(error, unavailable.database)
    app.add_middleware(_Unexpected, log=log)
    show_in_openapi(app)


def _database_errors() -> Sequence[type[Exception]]:
    """SQLAlchemy's errors for a database that does not serve; none where SQLAlchemy is not installed."""
    if find_spec("sqlalchemy") is None:
        return ()
    # Here, because an application that only wants `Tx` should not wait for it.
    from sqlalchemy.exc import InterfaceError, OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError

    return OperationalError, InterfaceError, PoolTimeoutError


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101
    return problem_response(
        error.status,
        title=error.title,
        detail=error.detail,
        errors=error.errors,
        headers=error.headers,
        extra=error.extra,
    )


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == HTTPStatus.NOT_FOUND and error.detail == HTTPStatus.NOT_FOUND.phrase:
        detail = "There is nothing at this address."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{_known(request.method)} is not possible here."
    elif error.status_code == HTTPStatus.BAD_REQUEST:
        detail = "The body is not JSON that can be read."
    else:
        detail = error.detail
    return problem_response(error.status_code, detail=detail, headers=error.headers)


def _known(method: str) -> str:
    """The method, unless it is a word of the client's own."""
    return method if method in HTTPMethod.__members__ else "This method"


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found: Sequence[Any] = error.errors()
    for one in found:
        if one["type"] == "json_invalid":
            return problem_response(400, detail=_why_no_json(one))
    if any(tuple(one["loc"]) == ("body",) for one in found) and not _says_json(request):
        return problem_response(415, detail="Send the body as JSON, with Content-Type: application/json.")
    errors = [_field_error(one) for one in found[:_MAX_ERRORS]]
    more = len(found) - len(errors)
    detail = f"{errors[0].path or errors[0].place}: {errors[0].detail}" if len(errors) == 1 else None
    detail = detail or f"{len(found)} fields are wrong{f'; the first {len(errors)} are listed' if more else ''}."
    return problem_response(422, detail=detail, errors=errors)


def _why_no_json(error: Mapping[str, Any]) -> str:
    said = str(error.get("ctx", {}).get("error", ""))
    return said if said in _REASONS else "The body is not JSON that can be read."


_REASONS: Final = (DUPLICATE_KEY, NOT_A_NUMBER, TOO_LARGE_A_NUMBER, NOT_UTF_8)


def _says_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _field_error(error: Mapping[str, Any]) -> FieldError:
    """Where and what, from pydantic's error, without its `input` and `ctx`: those repeat the value."""
    place, *path = [str(part) for part in error["loc"]]
    if place == "body":
        pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
    else:
        pointer = ".".join(path)
    detail = _EXTRA_FORBIDDEN if error["type"] == "extra_forbidden" else str(error["msg"])
    return invalid(pointer[:_MAX_PATH], detail.removeprefix("Value error, "), place=place)


_EXTRA_FORBIDDEN: Final = "There is no such field"


class _Unavailable:
    """Answers for what may succeed later: 503, with the seconds to wait."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    async def commit_unknown(self, _request: Request, error: Exception) -> Response:
        self._log.warning("The connection was lost while committing: answered 503, outcome unknown")
        return self._later(str(error))

    async def outbox_full(self, _request: Request, error: Exception) -> Response:
        self._log.warning("A request was answered 503, nothing was changed: %s", error)
        return self._later("Too much waits to be passed on at the moment; nothing was changed.")

    async def database(self, _request: Request, error: Exception) -> Response:
        why = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
        self._log.warning("The database did not serve a request: answered 503 (%s)", why)
        return self._later("The database is not available at the moment; nothing was changed.")

    def _later(self, detail: str) -> Response:
        return problem_response(503, detail=detail, headers={"retry-after": str(RETRY_AFTER_S)})


class _Unexpected:
    """The last resort, inside the framework's own, which would re-raise to the server and log everything twice."""

    def __init__(self, app: ASGIApp, *, log: logging.Logger) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except ClientDisconnect:
            # Nobody reads it, but middleware outside makes an error, and the server a traceback, of no answer at all:
            # strangers would write our log.
            if not started:
                await problem_response(400, detail="The body has not arrived whole.")(scope, receive, send)
        except Exception:
            if started:
                raise
            route = getattr(scope.get("route"), "path", "an unknown route")
            self._log.exception("%s %s failed unexpectedly: answered 500", _known(scope["method"]), route)
            response = problem_response(500, detail="Something went wrong on our side. It has been logged.")
            await response(scope, receive, send)
