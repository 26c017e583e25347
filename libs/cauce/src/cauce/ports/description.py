"""What a service says about itself in its own database, so that those who look at it need not import its code."""

from typing import Literal

import msgspec

__all__ = ["DescribedEvent", "DescribedListener", "DescribedTransport", "Description", "read_description"]


class DescribedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event class, as far as others can see it."""

    name: str
    cls: str
    kind: Literal["domain", "integration"]
    version: int
    key: str | None
    source: str | None
    earlier_names: tuple[str, ...]


class DescribedListener(msgspec.Struct, frozen=True, kw_only=True):
    """A listener: what it hears, and by which rules it is called."""

    name: str
    consumer: str
    """Under which name its past is kept."""
    when: Literal["arrival", "in_transaction", "after_commit", "durable"]
    """`arrival` for integration events."""
    events: tuple[str, ...]
    patterns: tuple[str, ...]
    attempts: int
    base_s: float
    cap_s: float
    limit_s: float
    effect: Literal["at_least_once", "at_most_once"] | None
    place: str
    """`file.py:line`, without the folders."""


class DescribedTransport(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    durable: bool
    address: str | None = None
    prefix: str | None = None


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A service as it was when it was started last. Seconds, rows and bytes as in Keep."""

    service: str
    cauce: str
    start: Literal["retained", "now"] | None
    transport: DescribedTransport | None
    events: tuple[DescribedEvent, ...]
    publishes: tuple[str, ...]
    topics: tuple[str, ...]
    """Of whom it hears."""
    sends_to: tuple[str, ...] | None = None
    """The topics that its outbox is sent to; None if an earlier version of Cauce wrote this."""
    listeners: tuple[DescribedListener, ...]
    sent_s: float
    sent_rows: int
    sent_bytes: int
    inbox_s: float
    broker_s: float


def read_description(written: str) -> Description | None:
    """None for what another version wrote in another form."""
    try:
        return msgspec.json.decode(written, type=Description)
    except msgspec.DecodeError:
        return None
