"""Cauce: domain events inside a service, integration events between services, one way to write them."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cauce.bus import Bus, DomainEventBus, IntegrationEventBus
    from cauce.context import Context
    from cauce.effects import AtLeastOnce, AtMostOnce
    from cauce.envelope import Envelope, current_envelope
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
        TransportUnavailableError,
    )
    from cauce.events import DomainEvent, IntegrationEvent
    from cauce.listeners import on
    from cauce.retry import Reject, Retry, RetryAfter
    from cauce.service import Service
    from cauce.transaction import Transaction

__all__ = [
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
    "Envelope",
    "IntegrationEvent",
    "IntegrationEventBus",
    "ListenersFailedError",
    "OutboxFullError",
    "PublishError",
    "Reject",
    "Retry",
    "RetryAfter",
    "Service",
    "Transaction",
    "TransportUnavailableError",
    "current_envelope",
    "on",
]

# Looked up on first use, so that what needs one part (the command line, a contract) does not wait for all.
_HOME = {
    "Bus": "cauce.bus",
    "DomainEventBus": "cauce.bus",
    "IntegrationEventBus": "cauce.bus",
    "Context": "cauce.context",
    "Envelope": "cauce.envelope",
    "current_envelope": "cauce.envelope",
    "AtLeastOnce": "cauce.effects",
    "AtMostOnce": "cauce.effects",
    "CauceError": "cauce.errors",
    "CommitUnknownError": "cauce.errors",
    "ConcurrentUseError": "cauce.errors",
    "ConfigurationError": "cauce.errors",
    "DecodeError": "cauce.errors",
    "DefinitionError": "cauce.errors",
    "ListenersFailedError": "cauce.errors",
    "OutboxFullError": "cauce.errors",
    "PublishError": "cauce.errors",
    "TransportUnavailableError": "cauce.errors",
    "DomainEvent": "cauce.events",
    "IntegrationEvent": "cauce.events",
    "on": "cauce.listeners",
    "Reject": "cauce.retry",
    "Retry": "cauce.retry",
    "RetryAfter": "cauce.retry",
    "Service": "cauce.service",
    "Transaction": "cauce.transaction",
}

if not TYPE_CHECKING:  # a type checker would take any name for granted

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
