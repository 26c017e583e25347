from cauce import DomainEvent, IntegrationEvent, Transaction


class Played(DomainEvent, name="typing.played"):
    title: str


class Created(IntegrationEvent, name="typing.created", version=1, source="typing"):
    id: str


async def use_case(tx: Transaction) -> None:
    await tx.publish("not an event")
