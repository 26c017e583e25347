"""The listener of the swarm, in every kind there is of one: it misbehaves as its events say, see misbehaviour.py."""

from collections.abc import Callable, Mapping
from typing import Any

from cauce import AtLeastOnce, AtMostOnce, Context, Envelope, Retry, Transaction, on
from sqlalchemy.ext.asyncio import AsyncSession

from testsupport.durable.history import happened
from testsupport.durable.misbehaviour import Needs, Situation, in_a_thread, misbehave
from testsupport.durable.shop import Counted, Noted, append

__all__ = ["KINDS", "OUTSIDE", "SWARM", "swarm_listener"]

SWARM = "swarm"
_ALL: frozenset[Needs] = frozenset({"nothing", "loop", "session", "postgresql"})
KINDS: Mapping[str, frozenset[Needs]] = {
    "plain": _ALL,
    "returned": _ALL,
    "shared": _ALL,
    "durable": _ALL,
    "blocking": frozenset({"nothing"}),
    "at-least-once": frozenset({"nothing", "loop"}),
    "at-most-once": frozenset({"nothing", "loop"}),
}
"""Kinds of listeners, and which ways to misbehave they have. `returned`: a plain function that returns what is to be
awaited."""
OUTSIDE = ("blocking", "at-least-once", "at-most-once")
"""Kinds without a transaction: their effect is a line of the history."""


def swarm_listener(kind: str, *, attempts: int, base: float, cap: float, limit_s: float) -> Callable[..., Any]:
    """The listener `swarm`, of a kind of KINDS."""
    said: dict[str, Any] = {"name": SWARM, "retry": Retry(attempts=attempts, base=base, cap=cap), "limit_s": limit_s}

    async def apply(
        event: Counted, session: AsyncSession, tx: Transaction, context: Context, envelope: Envelope
    ) -> None:
        await append(SWARM, event, session, context, envelope)
        if event.does:
            await misbehave(_way(event), Situation(event.no, context.attempt, session, tx))

    async def beside(
        event: Noted, session: AsyncSession, tx: Transaction, context: Context, envelope: Envelope
    ) -> None:
        await append(SWARM, event, session, context, envelope)
        if event.does:
            await misbehave(_way(event), Situation(event.no, context.attempt, session, tx))

    def returned(event: Counted, session: AsyncSession, tx: Transaction, context: Context, envelope: Envelope) -> Any:
        return apply(event, session, tx, context, envelope)

    def blocking(event: Counted, context: Context, envelope: Envelope) -> None:
        if event.does:
            in_a_thread(_way(event), Situation(event.no, context.attempt))
        _effect(event, envelope)

    async def outside(event: Counted, context: Context, envelope: Envelope) -> None:
        if event.does:
            await misbehave(_way(event), Situation(event.no, context.attempt))
        _effect(event, envelope)

    match kind:
        case "plain":
            return on(Counted, **said)(apply)
        case "returned":
            return on(Counted, **said)(returned)
        case "shared":
            return on(Counted, shared_transaction=True, **said)(apply)
        case "durable":
            return on(Noted, when="durable", **said)(beside)
        case "blocking":
            return on(Counted, blocking=True, **said)(blocking)
        case "at-least-once":
            return on(Counted, effect=AtLeastOnce(), **said)(outside)
        case _:
            return on(Counted, effect=AtMostOnce(), **said)(outside)


def _effect(event: Counted, envelope: Envelope) -> None:
    happened(
        "effect",
        event_id=envelope.id,
        key=envelope.key,
        key_seq=envelope.key_seq,
        incarnation=envelope.incarnation,
        no=event.no,
    )


def _way(event: Counted | Noted) -> str:
    return event.does.removeprefix(f"{SWARM}@")
