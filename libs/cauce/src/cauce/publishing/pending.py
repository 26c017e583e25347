"""Which listeners of a domain event run when, and what waits for the commit."""

from contextvars import Context
from dataclasses import dataclass
from typing import TypeAlias

from cauce.events.envelope import Emission, Envelope
from cauce.formats.publication import Around
from cauce.listeners.listener import Listener

__all__ = ["AfterCommit", "Pending", "Plan", "ToSend"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Who hears one class of domain event, each list in order."""

    in_transaction: tuple[Listener, ...]
    after_commit: tuple[Listener, ...]
    durable: tuple[Listener, ...]


@dataclass(frozen=True, slots=True)
class AfterCommit:
    """A published domain event: who heard it in the transaction, and who is due once that commits."""

    emission: Emission
    heard_by: tuple[Listener, ...]
    listeners: tuple[Listener, ...]
    durable: tuple[Listener, ...] = ()
    message: Around | None = None
    """What is written down for the durable ones, if there are any."""
    variables: Context | None = None
    """The publisher's context variables, for the listeners that run after its commit."""


@dataclass(frozen=True, slots=True)
class ToSend:
    """A published integration event: for other services, once the transaction commits."""

    envelope: Envelope
    message: Around


Pending: TypeAlias = AfterCommit | ToSend
"""What happens only after the commit: listeners of this process, or an event for other services."""
