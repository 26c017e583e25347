"""Errors as RFC 9457 problem documents, the same shape from every service:

    {"type": "about:blank", "title": "Unprocessable Content", "status": 422, "detail": "…",
     "errors": [{"in": "body", "path": "/playlist/songs/0/title", "detail": "Field required"}]}

`path` is a JSON Pointer into the body, or the name of the parameter. What the client sent is never repeated,
so no document can contain a password.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from cauce.errors import CommitUnknownError, OutboxFullError
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Problem", "ProblemDocument", "install", "invalid", "problem_response", "responses"]

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
_MAX_ERRORS: Final = 20
_MAX_PATH: Final = 200


class Problem(Exception):  # noqa: N818  # the word of RFC 9457
    """Raise it anywhere below a request and the client gets this document. Nothing is logged.

    `errors` names the fields at fault; see `invalid`. Further members of the document go into `extra`.
    """

    def __init__(
        self,
        status: int,
        title: str | None = None,
        detail: str | None = None,
        *,
        errors: Sequence["FieldError"] = (),
        headers: Mapping[str, str] | None = None,
        **extra: object,
    ) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = headers
        self.extra = extra
        super().__init__(detail or title or HTTPStatus(status).phrase)


class FieldError(BaseModel):
    """One thing wrong with the request."""

    place: str = Field(serialization_alias="in", examples=["body"], description="body, path, query, header or cookie")
    path: str = Field(
        examples=["/email"], description="JSON Pointer into the body, or the parameter's name; empty: all"
    )
    detail: str


class ProblemDocument(BaseModel):
    """An error as RFC 9457 describes it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    errors: list[FieldError] | None = None


def invalid(path: str, detail: str, *, place: str = "body") -> FieldError:
    """The error of one field: `invalid("/email", "is taken")`."""
    return FieldError(place=place, path=path, detail=detail)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For FastAPI's `responses=`: these statuses are answered with problem documents."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    return {
        status: {
            "description": _phrase(status),
            "content": {MEDIA_TYPE: schema},
            **({"headers": _RETRY_AFTER_DOCUMENTED} if status == 503 else {}),
        }
        for status in statuses
    }


_RETRY_AFTER_DOCUMENTED: Final = {
    "Retry-After": {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}}
}


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document, the router's 404 and 405 included.

    An unexpected exception is logged once, with its traceback, and answered 500 with nothing of it.
    Call it before the first request; middleware added later lies outside and is not covered.
    """
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(CommitUnknownError, _commit_unknown)
    app.add_exception_handler(OutboxFullError, _outbox_full)
    for error in (OperationalError, InterfaceError, PoolTimeoutError):
        app.add_exception_handler(error, _database_unavailable)
    app.add_middleware(_Unexpected)
    _document(app)


def problem_response(
    status: int,
    *,
    title: str | None = None,
    detail: str | None = None,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    extra: Mapping[str, object] | None = None,
) -> Response:
    """The document as a response."""
    document: dict[str, object] = {
        "type": "about:blank",
        "title": title or _phrase(status),
        "status": status,
    }
    if detail:
        document["detail"] = detail
    if errors:
        document["errors"] = [error.model_dump(by_alias=True) for error in errors]
    document |= extra or {}
    # ASCII: a field's name may hold half a surrogate pair, which UTF-8 cannot.
    return Response(json.dumps(document), status, headers, media_type=MEDIA_TYPE)


def _phrase(status: int) -> str:
    return _PHRASES.get(status) or HTTPStatus(status).phrase


_PHRASES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}
"""RFC 9110's words, where Python 3.11 still has the old ones."""


# --- the handlers -------------------------------------------------------------------------------------------


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
        detail = f"{request.method} is not possible here."
    elif error.status_code == HTTPStatus.BAD_REQUEST:
        detail = "The body is not JSON that can be read."
    else:
        detail = error.detail
    return problem_response(error.status_code, detail=detail, headers=error.headers)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found: Sequence[Any] = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return problem_response(400, detail="The body is not JSON that can be read.")
    if any(tuple(one["loc"]) == ("body",) for one in found) and not _says_json(request):
        return problem_response(415, detail="Send the body as JSON, with Content-Type: application/json.")
    errors = [_field_error(one) for one in found[:_MAX_ERRORS]]
    more = len(found) - len(errors)
    detail = f"{errors[0].path or errors[0].place}: {errors[0].detail}" if len(errors) == 1 else None
    detail = detail or f"{len(found)} fields are wrong{f'; the first {len(errors)} are listed' if more else ''}."
    return problem_response(422, detail=detail, errors=errors)


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


async def _commit_unknown(_request: Request, error: Exception) -> Response:
    log.warning("The connection was lost while committing: answered 503, outcome unknown")
    return problem_response(503, detail=str(error), headers={"retry-after": str(RETRY_AFTER_S)})


async def _outbox_full(_request: Request, error: Exception) -> Response:
    log.warning("A request was answered 503, nothing was changed: %s", error)
    return problem_response(
        503,
        detail="Too much waits to be passed on at the moment; nothing was changed.",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


async def _database_unavailable(_request: Request, error: Exception) -> Response:
    why = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
    log.warning("The database did not serve a request: answered 503 (%s)", why)
    return problem_response(
        503,
        detail="The database is not available at the moment; nothing was changed.",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


class _Unexpected:
    """The last resort, inside the framework's own, which would tell the server and log everything twice."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
        except Exception:
            if started:
                raise
            route = getattr(scope.get("route"), "path", "an unknown route")
            log.exception("%s %s failed unexpectedly: answered 500", scope["method"], route)
            response = problem_response(500, detail="Something went wrong on our side. It has been logged.")
            await response(scope, receive, send)


def _document(app: FastAPI) -> None:
    """Put the document's schema where `responses` points at, and take FastAPI's own error schemas out."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas: dict[str, Any] = described().setdefault("components", {}).setdefault("schemas", {})
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            document = ProblemDocument.model_json_schema(
                mode="serialization", ref_template="#/components/schemas/{model}"
            )
            schemas.update(document.pop("$defs"))
            schemas["ProblemDocument"] = document
        return described()

    app.openapi = openapi  # pyright: ignore[reportAttributeAccessIssue]  # FastAPI's documented way of extending it
