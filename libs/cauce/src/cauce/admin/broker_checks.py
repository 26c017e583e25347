"""Checks of the brokers that services use: each a verdict, a fact and one command. Nothing is changed."""

import time
from collections.abc import Sequence

from cauce.admin.broker import open_broker
from cauce.admin.group_checks import examine_groups
from cauce.admin.service_checks import Examined
from cauce.admin.targets import Broker
from cauce.admin.verdicts import clock_verdict
from cauce.errors import ConfigurationError, TransportUnavailableError
from cauce.ports.description import Description
from cauce.ports.topics import Inspectable
from cauce.ports.transport import Verdict

__all__ = ["examine_brokers"]


async def examine_brokers(services: Sequence[Examined]) -> dict[str, list[Verdict]]:
    """The verdicts on every broker the services use, by its address and prefix. What cannot be reached is one too."""
    groups: dict[tuple[Broker, str | None], list[Examined]] = {}
    for examined in services:
        transport = examined.description.transport if examined.description else None
        if examined.description is not None and (transport is None or transport.name != "redis"):
            continue  # it uses none, or one of another kind
        groups.setdefault((examined.target.broker, transport.prefix if transport else None), []).append(examined)
    # A service that has never been started says nothing of its prefix; it goes with the others.
    brokers: dict[str, list[Verdict]] = {}
    for (broker, prefix), members in groups.items():
        if prefix is None and any(other == broker and known for other, known in groups):
            continue
        try:
            async with open_broker(broker, prefix=prefix) as opened:
                name = opened.address if prefix in (None, "cauce") else f"{opened.address} ({prefix})"
                try:
                    brokers[name] = await _examine(opened, members)
                except TransportUnavailableError as error:
                    fact, _, fix = str(error).partition(" → ")
                    brokers[name] = [Verdict("broker", "bad", fact, fix)]
        except ConfigurationError as error:
            brokers[broker.origin] = [Verdict("broker", "bad", error.problems[0], f"correct {broker.origin}")]
    return brokers


async def _examine(broker: Inspectable, services: Sequence[Examined]) -> list[Verdict]:
    """The checks of the broker that these services use. Raises TransportUnavailableError."""
    asked = time.monotonic()
    before = time.time()
    now = (await broker.now()).timestamp()
    took = (time.monotonic() - asked) * 1000
    found = [Verdict("broker", "good", f"{broker.name} at {broker.address} answers in {took:.0f} ms")]
    found.append(clock_verdict("the broker's clock", now - (before + time.time()) / 2))
    found += await broker.health()
    for examined in services:
        if examined.description is not None:
            found += _address(broker, examined.description)
            found += await _database(broker, examined, examined.description)
    found += await examine_groups(broker, services)
    return found


def _address(broker: Inspectable, description: Description) -> list[Verdict]:
    said = description.transport.address if description.transport else None
    if said is None or _normal(said) == _normal(broker.address):
        return []
    fact = f"{description.service} was started with the broker at {said}; this look was at {broker.address}"
    return [Verdict("address", "weak", fact, "cauce doctor --redis-url redis://…")]


async def _database(broker: Inspectable, examined: Examined, description: Description) -> list[Verdict]:
    """Whether the broker has another database noted for this service: then the service is refused there."""
    noted = await broker.databases(description.service)
    others = [topic for topic, one in noted.items() if one != examined.incarnation]
    if not others:
        return []
    fact = (
        f"{description.service} is registered there with another database than {examined.target.database_label} "
        f"({', '.join(others)}): another environment works under its name, or this database replaces that one"
    )
    fix = (
        "give this one a broker or a prefix of its own; or, if it is the right one: "
        f"cauce db restored {examined.target.typed}"
    )
    return [Verdict(f"{description.service}'s database", "bad", fact, fix)]


def _normal(address: str) -> str:
    return address.replace("localhost", "127.0.0.1")
