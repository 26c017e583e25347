"""Check what a service may publish; plan which listeners receive it."""

from collections.abc import Sequence

from cauce.errors import PublishError
from cauce.events.envelope import Clock, Emission, Envelope, NewId, current_envelope
from cauce.events.event import DomainEvent, Event, IntegrationEvent, check_fields, describe
from cauce.events.publishable import Publishable
from cauce.formats.publication import Around, published
from cauce.listeners.catalog import in_order
from cauce.listeners.listener import Listener
from cauce.ports.transport import ChecksEvents
from cauce.publishing.bus import not_an_event
from cauce.publishing.pending import Plan, ToSend

__all__ = ["PublishingRules"]


class PublishingRules:
    """Says what one service may publish, and which of its listeners hear it. Fixed once made.

    `known`: the event classes the service can meet; `publishes`: the integration events among them that are its own;
    `wires`: what an event leaves by, if its format is narrower than ours.
    """

    def __init__(
        self,
        service: str,
        *,
        version: str | None,
        listeners: Sequence[Listener],
        known: Sequence[type[Event]],
        publishes: Sequence[type[IntegrationEvent]],
        clock: Clock,
        new_id: NewId,
        wires: Sequence[ChecksEvents] = (),
    ) -> None:
        self.service = service
        self._listeners = listeners
        self._known = known
        self._publishable = Publishable(service, publishes, version=version, clock=clock, new_id=new_id)
        self._clock = clock
        self._new_id = new_id
        self._wires = tuple(wires)
        self._plans: dict[type[DomainEvent], Plan] = {}

    def plan(self, event_type: type[DomainEvent]) -> Plan:
        """Who hears a domain event, and when. DefinitionError for a class that cannot be published."""
        plan = self._plans.get(event_type)
        if plan is None:
            describe(event_type)
            heard = in_order(self._listeners, event_type)
            check_fields(event_type, travels=any(one.registration.when == "durable" for one in heard))
            plan = self._plans[event_type] = Plan(
                in_transaction=tuple(one for one in heard if one.registration.when == "in_transaction"),
                after_commit=tuple(one for one in heard if one.registration.when == "after_commit"),
                durable=tuple(one for one in heard if one.registration.when == "durable"),
            )
        return plan

    def check(self, event_type: type[IntegrationEvent]) -> None:
        """Raise PublishError if the service may not publish this integration event."""
        name, source = event_type.__name__, describe(event_type).source
        if source != self.service:
            raise PublishError(f"{name} belongs to {source}; this is {self.service}, which cannot speak for it")
        if event_type not in self._publishable:
            names = [*(one.__name__ for one in self._publishable.events), name]
            raise self._publishable.undeclared(event_type, fix=f"Add it to the service: publishes=[{', '.join(names)}]")

    def not_an_event(self, thing: object) -> PublishError:
        """The error for something that is no event, with the nearest of those that are."""
        domain = (one for one in self._known if issubclass(one, DomainEvent))
        return PublishError(not_an_event(thing, (*domain, *self._publishable.events)))

    def emission(self, event: DomainEvent) -> Emission:
        """A domain event as its listeners get it, caused by the event being handled now."""
        return Emission(event, None, self.service, self._envelope(event))

    def written(self, event: DomainEvent) -> tuple[Emission, Around]:
        """As `emission`, for an event that is written down for durable listeners. PublishError if none could read it."""
        envelope, message = published(event, self._envelope)
        return Emission(event, None, self.service, envelope), message

    def to_send(self, event: IntegrationEvent) -> ToSend:
        """An integration event of this service, ready to be sent. PublishError if no service could read it."""
        envelope, message = published(event, self._publishable.envelope)
        for wire in self._wires:
            wire.check(envelope, message[0] + message[1])
        return ToSend(envelope, message)

    def _envelope(self, event: DomainEvent) -> Envelope:
        return Envelope.of(
            event, source=self.service, cause=current_envelope(), id=self._new_id(), occurred_on=self._clock()
        )
