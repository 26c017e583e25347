"""The event that travels, with and without a key."""

import msgspec
from cauce import Envelope, IntegrationEvent

__all__ = ["BATCH", "CONSUMER", "KEYS", "PRODUCER", "TEXT", "KeyedRenamed", "Renamed", "envelope_of", "event_of"]

PRODUCER, CONSUMER = "producer-ms", "consumer-ms"
KEYS = 1000
BATCH = 100
TEXT = "Songs for the road, and for the way back; nobody has heard them yet."


class Renamed(IntegrationEvent, name="com.example.bench.renamed", version=1, source=PRODUCER):
    user_id: str
    text: str


class KeyedRenamed(IntegrationEvent, name="com.example.bench.keyed-renamed", version=1, source=PRODUCER, key="user_id"):
    user_id: str
    text: str


def event_of(number: int, *, keyed: bool) -> IntegrationEvent:
    user_id = f"user-{number % KEYS}"
    return KeyedRenamed(user_id=user_id, text=TEXT) if keyed else Renamed(user_id=user_id, text=TEXT)


def envelope_of(number: int, *, keyed: bool, run: str) -> Envelope:
    """As the outbox would have numbered it; `run` is the incarnation, so that every run counts from 1."""
    envelope = Envelope.of(event_of(number, keyed=keyed))
    if not keyed:
        return envelope
    return msgspec.structs.replace(envelope, key_seq=number // KEYS + 1, incarnation=run)
