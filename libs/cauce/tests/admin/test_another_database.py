"""A service whose database is another one than the broker has noted: refused, red, and set right by the advice given."""

import re
import shlex
from typing import Any

import pytest
from cauce import ConfigurationError, Service
from cauce.dev.servers import ScratchDatabases, ValkeyServer
from testsupport.shop_and_mail import Command, Project, Said, UserCreated, World, figures_of, publish, until


@pytest.fixture
def deleted(project: Project, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Deletes the database of mail; the next one is empty. Returns the URL of what it was, which is there still."""

    def delete() -> str:
        before = project.urls["mail"]
        if project.dialect == "sqlite":
            kept = project.folder / "kept.sqlite"
            (project.folder / "mail.sqlite").rename(kept)
            for left in project.folder.glob("mail.sqlite-*"):
                left.unlink()
            return f"sqlite+aiosqlite:///{kept}"
        databases: ScratchDatabases = request.getfixturevalue("postgres")
        project.urls["mail"] = databases.database()
        monkeypatch.setenv("MAIL_DATABASE_URL", project.urls["mail"])
        return before

    return delete


async def _handled(service: Service, count: int) -> None:
    async def done() -> bool:
        return sum(one.handled for one in (await figures_of(service)).listeners) >= count

    await until(done)


async def _greet(project: Project, broker: ValkeyServer, name: str) -> None:
    async with project.running(broker.url, World()) as (shop, mail):
        before = sum(one.handled for one in (await figures_of(mail)).listeners)
        await publish(shop, UserCreated(id="1", name=name))
        await _handled(mail, before + 3)


def _advice(said: str) -> list[str]:
    """The words of the command that begins so in a message, as a person would copy them."""
    (found,) = re.findall(r"cauce (db restored [\w-]+)", said)
    return shlex.split(found)


async def _verdicts(cauce: Command) -> list[dict[str, str]]:
    (broker,) = (await cauce("doctor", "mail", "--json")).json["brokers"].values()
    return [one for one in broker if one["subject"] == "mail-ms's database"]


async def test_a_database_made_anew_is_refused_red_and_registered_by_the_command_that_is_named(
    project: Project, broker: ValkeyServer, cauce: Command, deleted: Any
) -> None:
    await _greet(project, broker, "Ann")
    assert await _verdicts(cauce) == []
    kept = deleted()

    with pytest.raises(ConfigurationError) as refused:
        await _greet(project, broker, "Bob")
    (verdict,) = await _verdicts(cauce)
    said = await cauce(*_advice(str(refused.value)))

    assert verdict["state"] == "bad"
    assert "mail-ms is registered there with another database than " in verdict["fact"]
    assert "(mail-ms, shop-ms)" in verdict["fact"]
    assert verdict["fix"].endswith("if it is the right one: cauce db restored mail")
    assert said.code == 0, said.err
    assert said.out.splitlines()[1] == "It is registered with the broker in mail-ms, shop-ms."
    assert await _verdicts(cauce) == []
    await _greet(project, broker, "Bob")
    project.urls["mail"] = kept
    with pytest.raises(ConfigurationError, match="another database"):
        await _greet(project, broker, "Cy")


async def test_what_the_doctor_advises_registers_it_too(
    project: Project, broker: ValkeyServer, cauce: Command, deleted: Any
) -> None:
    await _greet(project, broker, "Ann")
    deleted()
    with pytest.raises(ConfigurationError):
        await _greet(project, broker, "Bob")

    (verdict,) = await _verdicts(cauce)
    said = await cauce(*_advice(verdict["fix"]), "--json")

    assert said.json["registered"] == ["mail-ms", "shop-ms"]
    await _greet(project, broker, "Bob")


async def test_a_service_that_is_forgotten_leaves_its_name_to_another_database(
    project: Project, broker: ValkeyServer, cauce: Command, deleted: Any
) -> None:
    await _greet(project, broker, "Ann")
    deleted()

    said = await cauce("topic", "forget", "mail-ms")

    assert said.out == "mail-ms is forgotten in mail-ms, shop-ms.\n"
    await _greet(project, broker, "Bob")


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_broker_that_is_away_is_told_when_the_command_is_repeated(
    project: Project, own_valkey: ValkeyServer, cauce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", own_valkey.url)
    await _greet(project, own_valkey, "Ann")
    own_valkey.kill()

    untold = await cauce("db", "restored", "mail")
    own_valkey.start()
    with pytest.raises(ConfigurationError, match="another database"):
        await _greet(project, own_valkey, "Bob")
    told = await cauce("db", "restored", "mail")

    assert untold.code == 3
    assert untold.out.startswith("mail: new incarnation ")
    assert "The broker does not know the new incarnation." in untold.err
    assert told.code == 0
    await _greet(project, own_valkey, "Bob")


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_name_that_nobody_has_is_answered_as_everywhere(project: Project, cauce: Command) -> None:
    said: Said = await cauce("db", "restored", "mial-ms")
    assert said.code == 2
    assert "no service 'mial-ms' in the project." in said.err
