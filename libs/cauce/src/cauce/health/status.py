"""The figures of a service from its database, kept for a moment: for `/status`, and for what needs attention."""

import asyncio
import logging
import time

import msgspec

from cauce.errors import CauceError
from cauce.ports.figures import Figures
from cauce.ports.store import SupportsFigures
from cauce.service.service import Service

__all__ = ["STATUS_LIMIT_S", "Status"]

log = logging.getLogger("cauce.health")

STATUS_LIMIT_S = 5.0
"""So long may the database take to answer."""
_STATUS_KEPT_S = 1.0
_ATTENTION_KEPT_S = 5.0


class Status:
    """The figures of the service, kept for a moment: frequent requests do not load the database."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._turn = asyncio.Lock()
        self._kept: tuple[int, object] = (503, {})
        self._good_until = 0.0
        self._attention: dict[str, str] = {}
        self._looked_at = -_ATTENTION_KEPT_S
        self._looking: asyncio.Task[None] | None = None

    def needs_attention(self) -> dict[str, str]:
        """As it was found some seconds ago: whoever asks for readiness never waits for the database on its account."""
        now = time.monotonic()
        if now - self._looked_at >= _ATTENTION_KEPT_S and isinstance(self._service.store, SupportsFigures):
            self._looked_at = now
            self._looking = asyncio.get_running_loop().create_task(self._look(self._service.store))
        return self._attention

    async def _look(self, store: SupportsFigures) -> None:
        try:
            async with asyncio.timeout(STATUS_LIMIT_S):
                self._attention = _needs_attention(await store.figures())
        except Exception as error:  # whatever a driver raises: `not_ready` names a database that is away
            log.debug("what needs attention could not be read: %s", type(error).__name__)

    async def answer(self) -> tuple[int, object]:
        async with self._turn:
            if time.monotonic() >= self._good_until:
                self._kept = await self._ask()
                self._good_until = time.monotonic() + _STATUS_KEPT_S
            return self._kept

    async def _ask(self) -> tuple[int, object]:
        store = self._service.store
        if not isinstance(store, SupportsFigures):
            return 404, {
                "error": f"{self._service.name} keeps nothing in a database; /counters has what it did since its start"
            }
        try:
            async with asyncio.timeout(STATUS_LIMIT_S):
                return 200, msgspec.to_builtins(await store.figures())
        except CauceError as error:  # no tables of ours: nothing durable is done here
            return 404, {"error": str(error)}
        except Exception as error:  # whatever a driver raises: this page must not take the service down
            log.warning("the status could not be read: %s", type(error).__name__)
            return 503, {"error": f"the database does not tell ({type(error).__name__})"}


def _needs_attention(figures: Figures) -> dict[str, str]:
    """What does not move until a person does something. Of several things of one listener, the one to do first."""
    found: dict[str, str] = {}
    stuck = figures.stuck
    if stuck.overdue:
        found["waiting"] = f"{stuck.overdue} were due more than a minute ago → cauce doctor"
    for one in stuck.left_behind:
        missing = f"the code has no {one.event} any more" if one.listener_in_code else "not in the code any more"
        found[one.listener] = f"{missing}, and {one.count} wait → cauce waiting list --listener {one.listener}"
    for topic, count in stuck.unsent_elsewhere.items():
        found[topic] = f"{count} unsent, and {figures.service} does not send to it → cauce doctor"
    for listener, count in stuck.held.items():
        found[listener] = f"nothing makes {count} due → cauce waiting retry --listener {listener} --state held"
    for listener, count in stuck.postponed.items():
        shown = f"cauce waiting list --listener {listener} --state postponed"
        found[listener] = f"only a newer version of the service reads {count} → {shown}"
    for one in figures.listeners:
        if one.dead:
            numbers = f"dead letters: {one.dead}, parked keys: {one.parked_keys}"
            found[one.listener] = f"{numbers} → cauce dead list --listener {one.listener}"
        if one.paused_s is not None:
            why = one.paused_because or "nobody said why"
            found[one.listener] = f"paused ({why}), and {one.waiting} wait → cauce listener resume {one.listener}"
    if figures.outbox.set_aside:
        found["outbox"] = f"{figures.outbox.set_aside} that the broker will never take → cauce outbox status"
    return found
