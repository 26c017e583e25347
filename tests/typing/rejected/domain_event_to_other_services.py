from cauce import DomainEvent, IntegrationEvent, IntegrationEventBus


class Played(DomainEvent, name="typing.played"):
    title: str


class Created(IntegrationEvent, name="typing.created", version=1, source="typing"):
    id: str


async def use_case(bus: IntegrationEventBus) -> None:
    await bus.publish(Played(title="Río"))
