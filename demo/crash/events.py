"""The one event, declared by the shop and heard by mail."""

from cauce import IntegrationEvent

__all__ = ["OrderPlaced"]


class OrderPlaced(IntegrationEvent, name="shop.order-placed", version=1, source="shop"):
    order: str
    email: str
