from cauce import IntegrationEvent
class UserCreated(IntegrationEvent, name="users.created", version=1, key="email", source="accounts"):
    email: str
