"""The health pages in the service's own event loop: to be mounted in an application of one's own."""

from cauce.health.pages import ASGIApp, health_pages
from cauce.health.status import Status
from cauce.service.service import Service

__all__ = ["health_app"]


def health_app(service: Service) -> ASGIApp:
    """The health port as an ASGI application. May be mounted: `app.mount("/internal", health_app(service))`.

    `/health/live`: 200 while the process answers. `/health/ready`: 200, or 503 with what is not ready and why; either
    way with `needs_attention`: what waits for an operator, by listener, with the command that shows or fixes it, some
    seconds old. `/health/moving`: the same page, and 503 too while anything needs attention: `/health/ready` is for
    whoever sends requests, this one for whoever calls a person. `/counters`: plain numbers since the start. `/status`:
    what `cauce status --json` reports of this service, from its database, asked at most once a second; 503 while the
    database does not answer, 404 for a service that keeps nothing there.

    It answers as long as the service's event loop turns, and has to be asked in it. The health port of
    `cauce.hosting.run` does not depend on that loop.
    """
    return health_pages(_AskedDirectly(service))


class _AskedDirectly:
    """The answers of a service that runs in this event loop."""

    def __init__(self, service: Service) -> None:
        self.name = service.name
        self._service = service
        self._status = Status(service)

    def blocked_s(self) -> None:
        return None  # whoever is answered sees that the loop turns

    async def readiness(self) -> tuple[dict[str, str], dict[str, str]]:
        return await self._service.check(), self._status.needs_attention()

    async def counters(self) -> dict[str, int]:
        return {"unfinished": self._service.unfinished, **dict(self._service.counters)}

    async def status(self) -> tuple[int, object]:
        return await self._status.answer()
