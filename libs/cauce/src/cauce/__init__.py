"""Cauce: domain events inside a service, integration events between services, one way to write them."""

from cauce.bus import Bus, DomainEventBus, IntegrationEventBus
from cauce.context import Context
from cauce.envelope import Envelope, current_envelope
from cauce.errors import (
    CauceError,
    CommitUnknownError,
    ConcurrentUseError,
    ConfigurationError,
    DecodeError,
    DefinitionError,
    ListenersFailedError,
    PublishError,
    TransportUnavailableError,
)
from cauce.events import DomainEvent, IntegrationEvent
from cauce.listeners import on
from cauce.service import Service
from cauce.transaction import Transaction

__all__ = [
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
    "PublishError",
    "Service",
    "Transaction",
    "TransportUnavailableError",
    "current_envelope",
    "on",
]
