"""What a service did with its events: counted, and told to observers."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cauce.events.envelope import Emission, Envelope

__all__ = ["Happening", "Happenings", "Observer"]

What = Literal["published", "handled", "failed", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something a service did with an event."""

    what: What
    service: str
    envelope: Envelope
    listener: str = ""
    error: Exception | None = None


Observer = Callable[[Happening], None]


class Happenings:
    """Counts, and tells the observers of one service. Knows nobody who acts."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._observers: list[Observer] = []
        self.counters: Counter[str] = Counter()
        """Since the service was made, over all its runs."""

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with every happening, until the returned function is called."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def count(self, what: str, times: int = 1) -> None:
        self.counters[what] += times

    def tell(self, what: What, about: Emission | Envelope, listener: str = "", error: Exception | None = None) -> None:
        if self._observers:
            envelope = about if isinstance(about, Envelope) else about.envelope
            happening = Happening(what=what, service=self._service, envelope=envelope, listener=listener, error=error)
            for observer in list(self._observers):
                observer(happening)
