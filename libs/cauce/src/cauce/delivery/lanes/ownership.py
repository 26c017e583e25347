"""Run LaneKeeper against the database: renew the lease, take lanes and give them back."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping

from cauce.delivery.lanes.clock_steps import ClockSteps
from cauce.delivery.lanes.lane_keeper import BEAT_EVERY_S, LEASE_S, LaneKeeper
from cauce.ports.lanes import Epoch, Lane, LanesSeen, MemberId
from cauce.ports.message_store import MessageStore
from cauce.telemetry.connectivity import DatabaseStatus

__all__ = ["Ownership"]

log = logging.getLogger("cauce.lanes")

_BUSY_LANES_S = 0.2
_AFTER_A_LEASE_S = 0.05
_LEASES_UNTIL_NOT_READY = 2


class Ownership:
    """Which lanes this process may work on. Loops call `lanes` before every step."""

    def __init__(
        self,
        message_store: MessageStore,
        me: MemberId,
        *,
        busy: Callable[[Collection[Lane]], bool],
        trouble: DatabaseStatus,
        lease_s: float = LEASE_S,
        beat_every_s: float = BEAT_EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`busy`: whether deliveries of these lanes are still being handled; lanes are given back once they are not."""
        self.me = me
        self._message_store = message_store
        self._keeper = LaneKeeper(me, lease_s=lease_s)
        self._busy = busy
        self._trouble = trouble
        self._lease_s = lease_s
        self._beat_every_s = beat_every_s
        self._now = monotonic
        self._leaving: frozenset[Lane] = frozenset()
        self._abandoned: frozenset[Lane] = frozenset()
        self._distrusted: set[Lane] = set()
        self._renewed_at: float | None = None
        self._clock_steps = ClockSteps()
        self._ahead: frozenset[MemberId] = frozenset()
        self._delays_are_true = False
        self.has_begun = False
        """Whether the first beat has shared out lanes."""
        self.members: Collection[MemberId] = ()
        """The processes with a lease at the last beat, this one included."""
        self._owners: Mapping[Lane, MemberId | None] = {}
        self._ownerless: dict[Lane, float] = {}
        """Lanes without an owner at the last beat, and when that was first seen."""

    def lanes(self) -> Mapping[Lane, Epoch]:
        """Lanes to start new work on, with their epochs."""
        return {lane: epoch for lane, epoch in self._keeper.owned(self._now()).items() if lane not in self._leaving}

    def epochs(self) -> Mapping[Lane, Epoch]:
        """Lanes that are still ours, those being given back included: for finishing what runs."""
        return self._keeper.owned(self._now())

    def owner_of(self, lane: Lane) -> MemberId | None:
        """Whose the lane is: this process's, or another's as of the last beat. None if nobody's, or not known."""
        if lane in self._keeper.owned(self._now()):
            return self.me
        owner = self._owners.get(lane)
        return None if owner == self.me else owner

    def drop(self, lane: Lane) -> None:
        """Let go of a lane whose order we could not keep: the next beat takes it again, to be read from the start."""
        self._keeper.gave_back([lane])

    def was_abandoned(self, lane: Lane) -> bool:
        """Whether the earlier owner of this lane ended without giving it back, or was this process and was blocked."""
        return lane in self._abandoned or lane in self._distrusted

    def distrust(self, lane: Lane) -> None:
        """An event of this lane blocked this process: what is delivered again may be that event."""
        self._distrusted.add(lane)

    def database_clock(self) -> float | None:
        """The database's clock, had it not been set forward while this process runs: for what is deleted by its age."""
        return self._clock_steps.now(self._now())

    def problem(self) -> str | None:
        """Why lanes have had no owner for longer than two leases; None while all have one."""
        limit_s = self._lease_s * _LEASES_UNTIL_NOT_READY
        unrenewed_s = 0.0 if self._renewed_at is None else self._now() - self._renewed_at
        if unrenewed_s > limit_s:
            return f"this process could not renew its lease for {unrenewed_s:.0f} s"
        waiting = sorted(lane for lane, since in self._ownerless.items() if self._now() - since > limit_s)
        if not waiting:
            return None
        named = ", ".join(map(str, waiting))
        return f"no process owns lane {named}: others hold a lease and take no lanes → cauce doctor"

    async def run(self) -> None:
        """Beat until cancelled. A database that does not answer costs the lease, not the loop."""
        self._renewed_at = self._now()
        while True:
            pause_s = self._beat_every_s
            try:
                async with asyncio.timeout(self._lease_s):
                    pause_s = await self._beat()
                self._trouble.up()
            except Exception as error:  # the outage of the database is reported by readiness too
                self._trouble.down(error, retry_in_s=pause_s)
            await asyncio.sleep(pause_s)

    async def leave(self) -> None:
        """Give all lanes back, so that others need not wait for the lease to end."""
        async with asyncio.timeout(5):
            await self._message_store.leave(self.me)

    async def _beat(self) -> float:
        """One beat; returns how long to wait for the next."""
        asked = self._now()
        seen = await self._message_store.beat(self.me, lease_s=self._lease_s)
        answered = self._now()
        self._keeper.renewed(requested_at=asked, now=answered)
        self._renewed_at = asked
        self.members, self._owners = seen.members, {row.lane: row.owner for row in seen.rows}
        await self._mind_the_clock(seen, asked_at=asked, answered_at=answered)
        beat = self._keeper.beat(seen, now=answered)
        taken: Mapping[Lane, Epoch] = {}
        if beat.take:
            taken = await self._message_store.take(self.me, beat.take)
            self._abandoned = (self._abandoned - taken.keys()) | (beat.abandoned & taken.keys())
            for lane, epoch in taken.items():
                self._keeper.took(lane, epoch)
        self._ownerless = {lane: self._ownerless.get(lane, asked) for lane in beat.ownerless - taken.keys()}
        self.has_begun = True
        self._leaving = beat.give_back
        done = [lane for lane in beat.give_back if not self._busy([lane])]
        if done:
            await self._message_store.give_back(self.me, done)
            self._keeper.gave_back(done)
            self._leaving -= frozenset(done)
        if self._leaving:
            return min(self._beat_every_s, _BUSY_LANES_S)
        ends_s = beat.next_lease_ends_in_s
        # A lease that is not renewed is noticed when it ends, not up to a beat later.
        return self._beat_every_s if ends_s is None else min(self._beat_every_s, ends_s + _AFTER_A_LEASE_S)

    async def _mind_the_clock(self, seen: LanesSeen, *, asked_at: float, answered_at: float) -> None:
        """Leases and delays are by the database's clock. If it was set, neither is believed as it stands."""
        step_s = self._clock_steps.step(seen.clock, asked_at=asked_at, answered_at=answered_at)
        ahead, self._ahead = self._ahead, frozenset(seen.ahead)
        if step_s or not self._ahead <= ahead:  # a lease that is ahead shows it also to a process that has just started
            self._keeper.clock_was_set(now=answered_at)
            self._delays_are_true = False
        if step_s:
            how = f"{abs(step_s):.0f} s {'forward' if step_s > 0 else 'back'}"
            log.warning("the database's clock was set %s: leases are believed again in %g s", how, self._lease_s)
        if not self._delays_are_true:  # at every start too: it may have been set while no process ran
            await self._message_store.restart_delays()
            self._delays_are_true = True
