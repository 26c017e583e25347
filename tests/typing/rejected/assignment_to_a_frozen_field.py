from cauce import DomainEvent, IntegrationEvent


class Played(DomainEvent, name="typing.played"):
    title: str


class Created(IntegrationEvent, name="typing.created", version=1, source="typing"):
    id: str


Played(title="Río").title = "Mar"
