"""What waits in a service's database and will not be handled or sent by the code that runs."""

import logging

from cauce.delivery.inbox.listening import Listening
from cauce.ports.figures import listener_of
from cauce.ports.inbox import Unhandled
from cauce.ports.message_store import MessageStore

__all__ = ["report_left_behind"]

log = logging.getLogger("cauce.durable")


async def report_left_behind(listening: Listening, message_store: MessageStore) -> None:
    """Log a line for each listener, event class or topic that is not in the code, with the command that helps.

    None of it holds anything up: it is not even read. Another version of the service that runs beside this one may
    still handle it.
    """
    for one in await message_store.unhandled(listening.known):
        log.warning("%s: %s", listening.service, _of_nobody(one, listening))
    for topic, count in (await message_store.unsent_elsewhere(listening.sends_to)).items():
        log.warning(
            "%s: %d unsent events belong to the topic %s, which this service does not send to; they stay unsent "
            "→ docs/how-to/retire-a-service.md",
            listening.service, count, topic,
        )  # fmt: skip


def _of_nobody(one: Unhandled, listening: Listening) -> str:
    listener = listener_of(one.consumer)
    if one.consumer in listening.by_consumer:
        return (
            f"{one.count} deliveries of {one.name} wait for {listener}, and no event class here has that name: keep the "
            f"class, or give it to the new one as an earlier name → cauce waiting list --listener {listener}"
        )
    return (
        f"{one.count} deliveries of {one.name or 'an event'} wait for {listener}, which is not in this code "
        f"→ cauce waiting list --listener {listener}"
    )
