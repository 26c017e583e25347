"""The HTTP application of a service: what all of them have in common."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from cauce.fastapi import AllowedHosts, BodyLimit, problems
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

__all__ = ["application"]

_log: Final = logging.getLogger("seedwork.problems")  # the name that log filters know


def application(
    title: str,
    *,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]],
    max_body_bytes: int,
    allowed_hosts: Sequence[str],
    summary: str | None = None,
    description: str = "",
    responses: dict[int | str, dict[str, Any]] | None = None,
) -> FastAPI:
    """An application that limits bodies and answers every error with a problem document. It has no endpoint yet.

    It is called by the names in `allowed_hosts` only. Its page /docs needs no network. `responses` are documented for
    every endpoint.
    """
    app = FastAPIOffline(
        redoc_url=None,  # it would fetch fonts
        title=title,
        summary=summary,
        description=description,
        version="1.0.0",
        lifespan=lifespan,
        responses=responses,
        redirect_slashes=False,
    )
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    problems.install(app, log=_log)
    app.add_middleware(AllowedHosts, hosts=allowed_hosts)
    return app
