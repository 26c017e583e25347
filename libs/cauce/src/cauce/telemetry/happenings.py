"""What a service did with its events: counted, and told to observers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cauce.events.envelope import Envelope

__all__ = ["Happening", "Observer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something a service did with an event."""

    what: Literal["published", "handled", "failed", "lost"]
    service: str
    envelope: Envelope
    listener: str = ""
    error: Exception | None = None


Observer = Callable[[Happening], None]
