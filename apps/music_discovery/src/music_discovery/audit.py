"""The audit log: every domain event of this service that really happened, whichever module said it."""

import logging

from cauce import DomainEvent, Envelope, on

from music_discovery.shared.events import DISCOVERY

__all__ = ["note_domain_event"]

log = logging.getLogger(__name__)


@on(DISCOVERY, kind=DomainEvent, when="after_commit")
async def note_domain_event(event: DomainEvent, envelope: Envelope) -> None:
    """Ids only: what users call their playlists is not for logs. After the commit: what was undone never happened."""
    ids = {name: getattr(event, name) for name in event.__struct_fields__ if name.endswith("_id")}
    said = "".join(f" {name}={value}" for name, value in ids.items())
    log.info("Domain event: %s %s%s", envelope.name, envelope.id, said)
