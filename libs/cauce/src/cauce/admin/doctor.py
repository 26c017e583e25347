"""Is everything as it must be, and would anything be lost now? Checks of services and brokers, put together."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from cauce.admin.broker_checks import examine_brokers
from cauce.admin.service_checks import Examined, examine_service
from cauce.admin.targets import Target
from cauce.ports.transport import Verdict

__all__ = ["Examination", "examine", "would_be_lost"]


class Examination(Struct, frozen=True, kw_only=True):
    """`brokers`: by address and prefix."""

    services: Sequence[Examined]
    brokers: Mapping[str, Sequence[Verdict]]

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """All of them: services first."""
        of_services = [one for examined in self.services for one in examined.verdicts]
        return of_services + [one for verdicts in self.brokers.values() for one in verdicts]


async def examine(targets: Sequence[Target]) -> Examination:
    """Look at the services and the brokers they use. Raises nothing: what cannot be reached is a verdict."""
    services = [await examine_service(target) for target in targets]
    return Examination(services=services, brokers=await examine_brokers(services))


def would_be_lost(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """What these verdicts mean together for an event that is committed and not yet handled."""
    losing: list[str] = []
    for one in verdicts:
        match one.subject, one.state:
            case "tables", "bad" if "none of" in one.fact:
                losing.append(
                    "An event of a service without tables is LOST if the process or the broker dies at that moment."
                )
            case "transport", "bad":
                losing.append("An event is LOST for every service that is not listening when it is sent.")
            case "commits", "bad":
                losing.append("If the database's machine dies, its last commits and their events are LOST.")
            case "persistence", "weak" | "bad":
                losing.append(
                    "If the broker dies it forgets events. They are sent again from the outboxes, as far back as sent "
                    "events are kept; LOST is what is older than that and still unheard."
                )
            case "eviction", "bad":
                losing.append("If the broker is full it throws events away. Those the outboxes keep are sent again.")
            case _:
                pass
    if any(one.subject in ("database", "broker") and one.state == "bad" for one in verdicts):
        yield "Not everything could be looked at, so this is said of the rest only."
    yield from dict.fromkeys(losing)
    if not losing:
        yield "Nothing that is committed is lost: it waits in a database or on the broker until it is handled."
