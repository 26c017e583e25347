"""The message that everybody moves."""

import time
from datetime import UTC, datetime

import msgspec
from cauce import Envelope
from cauce.formats.cloudevents import to_json

__all__ = ["GROUP", "NAME", "STREAM", "TOPIC", "UserCreated", "message", "payload"]

TOPIC = "accounts-ms"
NAME = "com.clonespotify.accounts.users.integration.user-created"
STREAM = "bench"
GROUP = "mailing-ms"


class UserCreated(msgspec.Struct, frozen=True):
    id: str
    username: str
    email: str
    at: float


def payload() -> UserCreated:
    return UserCreated("12345678-1234-1234-1234-123456789abc", "john_doe", "john.doe@example.com", time.monotonic())


_encode = msgspec.json.Encoder().encode


def message() -> bytes:
    """A CloudEvents message as the outbox holds it: about 315 bytes."""
    event_id = "0192f1c4-7a3b-7c1e-9d7e-1f2a3b4c5d6e"
    return to_json(
        Envelope(
            id=event_id,
            source=TOPIC,
            name=NAME,
            version=1,
            occurred_on=datetime.now(UTC),
            payload=msgspec.Raw(_encode(payload())),
            correlation_id=event_id,
        )
    )
