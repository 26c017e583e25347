from cauce import DomainEvent, DomainEventBus, IntegrationEvent


class Played(DomainEvent, name="typing.played"):
    title: str


class Created(IntegrationEvent, name="typing.created", version=1, source="typing"):
    id: str


async def use_case(bus: DomainEventBus) -> None:
    await bus.publish(Created(id="1"))
