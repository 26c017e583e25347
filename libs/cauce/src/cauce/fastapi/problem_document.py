"""An error as RFC 9457 describes it: the document, its parts, and how OpenAPI shows it.

    {"type": "about:blank", "title": "Unprocessable Content", "status": 422, "detail": "…",
     "errors": [{"in": "body", "path": "/playlist/songs/0/title", "detail": "Field required"}]}

`path` is a JSON Pointer into the body, or the name of the parameter. What the client sent is never repeated,
so no document can contain a password.
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.responses import Response

__all__ = [
    "FieldError",
    "Problem",
    "ProblemDocument",
    "invalid",
    "problem_response",
    "responses",
    "show_in_openapi",
]

MEDIA_TYPE: Final = "application/problem+json"


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
            **({"headers": _RETRY_AFTER} if status == 503 else {}),
        }
        for status in statuses
    }


_RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}}
}


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


def show_in_openapi(app: FastAPI) -> None:
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
