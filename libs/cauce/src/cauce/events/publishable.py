"""The integration events one service may publish, and the envelopes it sends them in."""

from collections.abc import Sequence

from cauce.errors import PublishError, did_you_mean
from cauce.events.envelope import Clock, Envelope, NewId, current_envelope
from cauce.events.event import IntegrationEvent

__all__ = ["Publishable"]


class Publishable:
    """What `service` may publish; one rule for its transactions and for sessions that somebody else owns.

    `version`: of the service's code; it is written into every envelope.
    """

    def __init__(
        self,
        service: str,
        events: Sequence[type[IntegrationEvent]],
        *,
        version: str | None,
        clock: Clock,
        new_id: NewId,
    ) -> None:
        self.service = service
        self.events = tuple(events)
        self._version = version
        self._clock = clock
        self._new_id = new_id

    def __contains__(self, event_type: type[IntegrationEvent]) -> bool:
        return event_type in self.events

    def undeclared(self, event_type: type[IntegrationEvent], *, fix: str = "") -> PublishError:
        """The error for an event that the service does not declare; `fix` says where to declare it."""
        name, known = event_type.__name__, [one.__name__ for one in self.events]
        return PublishError(
            f"{self.service} does not say that it publishes {name}.{did_you_mean(name, known)}{fix and f' {fix}'}"
        )

    def envelope(self, event: IntegrationEvent) -> Envelope:
        """A new envelope for an event, caused by the one being handled now."""
        return Envelope.of(
            event,
            source_version=self._version,
            cause=current_envelope(),
            id=self._new_id(),
            occurred_on=self._clock(),
        )
