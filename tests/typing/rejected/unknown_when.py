from cauce import DomainEvent, IntegrationEvent, on


class Played(DomainEvent, name="typing.played"):
    title: str


class Created(IntegrationEvent, name="typing.created", version=1, source="typing"):
    id: str


@on(Played, when="sometimes")
async def listener(event: Played) -> None: ...
