"""JSON bodies that mean one thing to every reader: no key twice in an object, no NaN.

RFC 8259 leaves open which of two equal keys counts. Where a proxy, a log and this service choose differently, what was
checked is not what is done.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

__all__ = ["DUPLICATE_KEY", "NOT_A_NUMBER", "StrictJsonRoute"]

DUPLICATE_KEY: Final = "The body has an object with the same key twice."
NOT_A_NUMBER: Final = "The body has NaN or Infinity for a number, which JSON has not."


class StrictJsonRoute(APIRoute):
    """For `APIRouter(route_class=StrictJsonRoute)`: a body with duplicate keys or NaN is answered 400.

    FastAPI's own reader keeps the last of two equal keys and takes NaN. Everything else is read as ever.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            self._json = json.loads(body, object_pairs_hook=_without_duplicates, parse_constant=_no_number)
        return self._json


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise json.JSONDecodeError(DUPLICATE_KEY, "", 0)
    return found


def _no_number(_written: str) -> NoReturn:
    raise json.JSONDecodeError(NOT_A_NUMBER, "", 0)
