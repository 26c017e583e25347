"""Which listeners of a domain event run when, and what waits for the commit."""

from dataclasses import dataclass
from typing import TypeAlias

from cauce.events.envelope import Emission, Envelope
from cauce.listeners.listener import Listener

__all__ = ["AfterCommit", "Pending", "Plan"]


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


Pending: TypeAlias = AfterCommit | Envelope
"""What happens only after the commit: listeners of this process, or an envelope for other services."""
