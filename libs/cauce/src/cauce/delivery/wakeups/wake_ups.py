"""Tell the owner of a lane that something was committed for it, in whichever process and on whichever machine it runs."""

import asyncio
import logging
from collections.abc import Collection

from cauce.delivery.lanes.ownership import Ownership
from cauce.delivery.wakeups.datagrams import Datagrams
from cauce.ports.hints import Hint, Hints, Woken
from cauce.ports.lanes import Lane, MemberId

__all__ = ["WakeUps"]

log = logging.getLogger("cauce.wakeups")

_EVERY_S = 0.05
"""At most so often is the database asked to tell other machines: what comes meanwhile goes together."""
_LOOK_EVERY_S = 1.0
_AGAIN_S = 5.0


class WakeUps:
    """Hints from this process to the owners of lanes, and from them to this one. `hints`: the way to other machines, used
    while a process of the service runs on one."""

    def __init__(self, ownership: Ownership, *, hints: Hints | None, woken: Woken) -> None:
        self._ownership = ownership
        self._hints = hints
        self._woken = woken
        self._datagrams: Datagrams | None = None
        """While it runs, where the system has them."""
        self._far = dict[Hint, set[MemberId]]()
        """What is still to be sent to processes on other machines."""
        self._some_far = asyncio.Event()

    def tell(self, hint: Hint, lanes: Collection[Lane]) -> None:
        """Something was committed for these lanes. Wakes their owners as of the last beat; everybody, where one is not
        known: it may have been taken since."""
        owners = {self._ownership.owner_of(lane) for lane in lanes}
        members = {*self._ownership.members, self._ownership.me} if None in owners else owners
        for member in members:
            if member == self._ownership.me:
                self._woken(hint)
            elif member is not None:
                self._send(hint, member)

    def _send(self, hint: Hint, member: MemberId) -> None:
        if self._datagrams is not None and self._datagrams.send(hint, member):
            return
        if self._hints is not None:
            self._far.setdefault(hint, set()).add(member)
            self._some_far.set()

    async def run(self) -> None:
        """Hear the others and tell them, until cancelled. Errors are logged at most: every loop polls as well."""
        self._datagrams = Datagrams.open(self._ownership.me)
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._datagrams is not None:
                    tasks.create_task(self._datagrams.listen(self._woken))
                if self._hints is not None:
                    tasks.create_task(self._send_far(self._hints))
                    tasks.create_task(self._hear_far(self._hints))
        finally:
            if self._datagrams is not None:
                self._datagrams.close()
                self._datagrams = None

    async def _send_far(self, hints: Hints) -> None:
        while True:
            await self._some_far.wait()
            self._some_far.clear()
            due, self._far = self._far, {}
            try:
                for hint, members in due.items():
                    await hints.send(hint, members)
            except Exception as error:  # whatever a driver raises: they poll
                log.debug("other machines could not be told: %s", type(error).__name__)
            await asyncio.sleep(_EVERY_S)

    async def _hear_far(self, hints: Hints) -> None:
        while True:
            before = self._far_neighbours()
            await asyncio.sleep(_LOOK_EVERY_S)
            if not before & self._far_neighbours():  # one that is ending has no socket any more, for a moment
                continue
            try:
                await hints.listen(self._ownership.me, self._woken)
            except Exception as error:  # whatever a driver raises: we poll
                log.debug("hints of other machines are not heard: %s", type(error).__name__)
            await asyncio.sleep(_AGAIN_S)

    def _far_neighbours(self) -> set[MemberId]:
        here, me = self._datagrams, self._ownership.me
        return {one for one in self._ownership.members if one != me and (here is None or not here.is_here(one))}
