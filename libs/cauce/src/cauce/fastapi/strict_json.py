"""JSON bodies that mean one thing to every reader: UTF-8, no key twice in an object, no NaN, no infinite number.

RFC 8259 leaves open which of two equal keys counts. Where a proxy, a log and this service choose differently, what was
checked is not what is done. The same holds for a body in UTF-16, which Python's reader guesses.
"""

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

__all__ = ["DUPLICATE_KEY", "NOT_A_NUMBER", "NOT_UTF_8", "TOO_LARGE_A_NUMBER", "StrictJsonRoute"]

DUPLICATE_KEY: Final = "The body has an object with the same key twice."
NOT_A_NUMBER: Final = "The body has NaN or Infinity for a number, which JSON has not."
TOO_LARGE_A_NUMBER: Final = "The body has a number that is too large."
NOT_UTF_8: Final = "The body is not UTF-8."


class StrictJsonRoute(APIRoute):
    """For `APIRouter(route_class=StrictJsonRoute)`: a body with duplicate keys or NaN, with a number like 1e400, or in
    another encoding than UTF-8 is answered 400.

    FastAPI's own reader keeps the last of two equal keys, takes NaN, makes infinity of 1e400, and takes UTF-16, UTF-32
    and half a surrogate. Everything else is read as ever.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = json.loads(
                _text(await self.body()),
                object_pairs_hook=_without_duplicates,
                parse_constant=_no_number,
                parse_float=_finite,
            )
        return self._json


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise json.JSONDecodeError(NOT_UTF_8, "", 0) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise json.JSONDecodeError(DUPLICATE_KEY, "", 0)
    return found


def _no_number(_written: str) -> NoReturn:
    raise json.JSONDecodeError(NOT_A_NUMBER, "", 0)


def _finite(written: str) -> float:
    if math.isinf(number := float(written)):
        raise json.JSONDecodeError(TOO_LARGE_A_NUMBER, "", 0)
    return number
