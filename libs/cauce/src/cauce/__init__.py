"""Cauce: domain events inside a service, integration events between services, one way to write them.

The folders are the way an event takes, and each says in its `__init__` in which order to read it:

    events       what an event is                  class UserCreated(IntegrationEvent, name=…, version=1)
    formats      how it is written down            CloudEvents on the wire
    listeners    which code handles it             @on(UserCreated)
    publishing   publishing it, in a transaction   await tx.publish(UserCreated(…))
    delivery     the way to others                 outbox → relay → broker → consumer → inbox
    service      all of it, running                Service("accounts-ms", modules=[…], store=…, transport=…)

Beneath them: `ports` (what Cauce needs from outside), `telemetry` (what is logged and counted), `concurrency`, `errors`.
Beside them, the adapters: `stores` and `transports`. Above them, the doors: `fastapi`, `hosting`, `health`, `testing`,
and for people `cli` over `admin`. `settings` and `dev` are for programs and projects.

`docs/explanation/architecture.md` walks one event through the files. The core's public names are here, looked up on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cauce.delivery.nestjs_bridge import NestBridge
    from cauce.delivery.outbox.alarms import Alarms
    from cauce.delivery.pace import Pace
    from cauce.delivery.retention import Keep
    from cauce.errors import (
        CauceError,
        CommitUnknownError,
        ConcurrentUseError,
        ConfigurationError,
        DecodeError,
        DefinitionError,
        ListenersFailedError,
        OutboxFullError,
        PublishError,
        TransactionAbortedError,
        TransactionEndedError,
        TransportUnavailableError,
    )
    from cauce.events.envelope import Envelope, current_envelope, new_id, utc_now
    from cauce.events.event import DomainEvent, IntegrationEvent
    from cauce.listeners.context import Context
    from cauce.listeners.effects import AtLeastOnce, AtMostOnce, EffectNotDoneError
    from cauce.listeners.on import on
    from cauce.listeners.retry import Reject, Retry, RetryAfter
    from cauce.publishing.bus import Bus, DomainEventBus, IntegrationEventBus
    from cauce.publishing.transaction import Transaction
    from cauce.service.service import Service

__all__ = [
    "Alarms",
    "AtLeastOnce",
    "AtMostOnce",
    "Bus",
    "CauceError",
    "CommitUnknownError",
    "ConcurrentUseError",
    "ConfigurationError",
    "Context",
    "DecodeError",
    "DefinitionError",
    "DomainEvent",
    "DomainEventBus",
    "EffectNotDoneError",
    "Envelope",
    "IntegrationEvent",
    "IntegrationEventBus",
    "Keep",
    "ListenersFailedError",
    "NestBridge",
    "OutboxFullError",
    "Pace",
    "PublishError",
    "Reject",
    "Retry",
    "RetryAfter",
    "Service",
    "Transaction",
    "TransactionAbortedError",
    "TransactionEndedError",
    "TransportUnavailableError",
    "current_envelope",
    "new_id",
    "on",
    "utc_now",
]

# Looked up on first use, so that what needs one part (the command line, a contract) does not wait for all.
_HOME = {
    "NestBridge": "cauce.delivery.nestjs_bridge",
    "Alarms": "cauce.delivery.outbox.alarms",
    "Pace": "cauce.delivery.pace",
    "Keep": "cauce.delivery.retention",
    "CauceError": "cauce.errors",
    "CommitUnknownError": "cauce.errors",
    "ConcurrentUseError": "cauce.errors",
    "ConfigurationError": "cauce.errors",
    "DecodeError": "cauce.errors",
    "DefinitionError": "cauce.errors",
    "ListenersFailedError": "cauce.errors",
    "OutboxFullError": "cauce.errors",
    "PublishError": "cauce.errors",
    "TransactionAbortedError": "cauce.errors",
    "TransactionEndedError": "cauce.errors",
    "TransportUnavailableError": "cauce.errors",
    "Envelope": "cauce.events.envelope",
    "current_envelope": "cauce.events.envelope",
    "new_id": "cauce.events.envelope",
    "utc_now": "cauce.events.envelope",
    "DomainEvent": "cauce.events.event",
    "IntegrationEvent": "cauce.events.event",
    "Context": "cauce.listeners.context",
    "AtLeastOnce": "cauce.listeners.effects",
    "AtMostOnce": "cauce.listeners.effects",
    "EffectNotDoneError": "cauce.listeners.effects",
    "on": "cauce.listeners.on",
    "Reject": "cauce.listeners.retry",
    "Retry": "cauce.listeners.retry",
    "RetryAfter": "cauce.listeners.retry",
    "Bus": "cauce.publishing.bus",
    "DomainEventBus": "cauce.publishing.bus",
    "IntegrationEventBus": "cauce.publishing.bus",
    "Transaction": "cauce.publishing.transaction",
    "Service": "cauce.service.service",
}

if not TYPE_CHECKING:  # a type checker would take any name for granted

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
