"""`cauce.testing`: what a story waits for, what it says when that does not come, and where it runs."""

import itertools
import re
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from cauce import Context, DomainEvent, Envelope, IntegrationEvent, PublishError, Service, Transaction, on
from cauce.dev.servers import ScratchDatabases, ValkeyServer
from cauce.listeners.retry import Retry
from cauce.ports.transport import Transport
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.testing import StoryError, story
from cauce.transports.memory import MemoryTransport
from cauce.transports.redis_pubsub import RedisPubSub
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.pool import NullPool


class UserCreated(IntegrationEvent, name="accounts.user-created", version=1, key="id", source="accounts"):
    id: str
    email: str


class UserDeleted(IntegrationEvent, name="accounts.user-deleted", version=1, key="id", source="accounts"):
    id: str


class Registered(DomainEvent, name="accounts.registered"):
    id: str
    email: str


class MailSent(DomainEvent, name="mailing.mail-sent"):
    user_id: str


class Welcomed(IntegrationEvent, name="mailing.welcomed", version=1, key="user_id", source="mailing"):
    user_id: str


class SmtpError(Exception):
    pass


@on(Registered)
async def announce(event: Registered, tx: Transaction) -> None:
    if not event.email:
        raise ValueError("an account needs an address")
    await tx.publish(UserCreated(id=event.id, email=event.email))


@on(UserCreated)
async def welcome(event: UserCreated, tx: Transaction) -> None:
    if "@" not in event.email:
        raise SmtpError(f"no such address: {event.email}")
    await tx.publish(MailSent(user_id=event.id))
    await tx.publish(Welcomed(user_id=event.id))


@on(MailSent, when="after_commit")
async def message_store(event: MailSent) -> None: ...


class Archive:
    def __init__(self) -> None:
        self.welcomed: list[str] = []

    @on(Welcomed)
    async def remember(self, event: Welcomed) -> None:
        self.welcomed.append(event.user_id)


def ids(prefix: str) -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers)}"


def accounts_service(transport: Transport, *listeners: object) -> Service:
    return Service(
        "accounts", modules=[announce, *listeners], publishes=[UserCreated], transport=transport, new_id=ids("acc")
    )


def mailing_service(transport: Transport | None = None) -> Service:
    return Service(
        "mailing",
        modules=[welcome, message_store],
        publishes=[Welcomed],
        transport=transport or MemoryTransport(),
        new_id=ids("mail"),
    )


ANA = UserCreated(id="1", email="ana@example.com")
NOWHERE = UserCreated(id="1", email="nowhere")


# --- expecting ----------------------------------------------------------------------------------------------


async def test_publishing_and_what_comes_of_it() -> None:
    async with story(mailing_service()) as s:
        await s.publish(ANA)

        envelope = await s.handled(welcome, id="1")
        mail = await s.published(MailSent, user_id="1")
        await s.handled(message_store)
        await s.never_published(MailSent, user_id="2")

    assert (envelope.payload, envelope.source) == (ANA, "accounts")
    assert mail == MailSent(user_id="1")


async def test_until_takes_a_plain_and_an_async_condition() -> None:
    archive = Archive()
    wire = MemoryTransport()

    async def arrived() -> bool:
        return archive.welcomed == ["1"]

    async with story(mailing_service(wire), accounts_service(wire, archive)) as s:
        await s.publish(Registered(id="1", email="ana@example.com"))
        await s.until(lambda: bool(archive.welcomed))
        await s.until(arrived)


async def test_until_says_what_it_waited_for() -> None:
    with pytest.raises(StoryError, match=r"^waited 0\.05 s for the moon to rise\.\n\nNothing was published, and no"):
        async with story(mailing_service(), limit_s=0.05) as s:
            await s.until(lambda: False, why="the moon to rise")


async def test_a_listener_may_be_named_or_given_as_a_method() -> None:
    archive = Archive()
    service = Service("archive", modules=[archive], transport=MemoryTransport())
    async with story(service) as s:
        await s.publish(Welcomed(user_id="1"))
        given = await s.handled(archive.remember)
        named = await s.handled(service.listeners[0].name)
    assert given is named


async def test_what_is_no_listener_of_the_story_is_told_with_those_that_are() -> None:
    async with story(mailing_service()) as s:
        with pytest.raises(StoryError, match=r"is no listener of this story\. There are: .*welcome, .*message_store$"):
            await s.handled(announce)
        await s.publish(ANA)
        await s.handled(welcome)


async def test_a_story_that_expects_nothing_fails() -> None:
    with pytest.raises(StoryError, match="this story expects nothing: await"):
        async with story(mailing_service()) as s:
            await s.publish(ANA)
    with pytest.raises(StoryError, match="a story needs at least one service"):
        story()


async def test_never_published_waits_for_the_end_of_everything() -> None:
    with pytest.raises(StoryError, match=r"^MailSent\(user_id='1'\) was published\.\n\naccounts\.user-created"):
        async with story(mailing_service()) as s:
            await s.publish(ANA)
            await s.never_published(MailSent, user_id="1")


async def test_what_is_rolled_back_was_never_published() -> None:
    service = mailing_service()
    async with story(service) as s:
        with pytest.raises(SmtpError):
            async with service.transaction() as tx:
                await tx.publish(MailSent(user_id="1"))
                raise SmtpError
        await s.never_published(MailSent)


# --- failing ------------------------------------------------------------------------------------------------


async def test_a_listener_that_fails_fails_the_story_with_its_cause() -> None:
    with pytest.raises(StoryError, match=r"test_story\.welcome failed: SmtpError\('no such address: nowhere'\)") as no:
        async with story(mailing_service()) as s:
            await s.publish(NOWHERE)
            await s.published(MailSent)
    assert isinstance(no.value.__cause__, SmtpError)


async def test_a_listener_that_fails_after_the_last_expectation_fails_the_story_too() -> None:
    with pytest.raises(StoryError, match="welcome failed") as no:
        async with story(mailing_service()) as s:
            await s.publish(ANA)
            await s.handled(welcome)
            await s.publish(NOWHERE)
    assert isinstance(no.value.__cause__, SmtpError)


async def test_an_expected_failure_is_no_failure_and_is_expected_once() -> None:
    async with story(mailing_service()) as s:
        await s.publish(NOWHERE)
        error = await s.failed(welcome)
        await s.never_published(MailSent)
        await s.publish(NOWHERE)
        assert await s.failed(welcome) is not error
    assert str(error) == "no such address: nowhere"


async def test_a_failure_that_does_not_come_is_told() -> None:
    with pytest.raises(StoryError, match=r"waited 0\.1 s for .*welcome to fail\.\n\naccounts\.user-created") as no:
        async with story(mailing_service(), limit_s=0.1) as s:
            await s.publish(ANA)
            await s.failed(welcome)
    assert "· handled by" in str(no.value)


async def test_a_listener_in_the_transaction_fails_the_publisher() -> None:
    service = accounts_service(MemoryTransport())
    async with story(service) as s:
        with pytest.raises(ValueError, match="an account needs an address"):
            await s.publish(Registered(id="1", email=""))
        await s.never_published(Registered)


async def test_an_event_that_nobody_hears_is_refused_with_the_nearest_that_is_heard() -> None:
    async with story(mailing_service()) as s:
        with pytest.raises(StoryError) as no:
            await s.publish(UserDeleted(id="1"))
        await s.never_published(MailSent)
    assert str(no.value) == (
        "UserDeleted comes from another service (accounts), and nobody in this story hears accounts.user-deleted. "
        "Did you mean 'accounts.user-created'? Heard: accounts.user-created"
    )


async def test_an_event_that_the_service_may_not_publish_is_refused_as_in_production() -> None:
    service = Service("mailing", modules=[welcome], transport=MemoryTransport())
    async with story(service) as s:
        with pytest.raises(PublishError, match="does not say that it publishes Welcomed"):
            await s.publish(Welcomed(user_id="1"))
        await s.never_published(Welcomed)


# --- the causal tree ----------------------------------------------------------------------------------------


async def test_the_message_holds_what_happened_each_event_under_the_one_that_caused_it() -> None:
    wire = MemoryTransport()
    archive = Archive()
    services = accounts_service(wire, archive), mailing_service(wire)
    with pytest.raises(StoryError) as no:
        async with story(*services, limit_s=0.2) as s:
            await s.publish(Registered(id="1", email="ana@example.com"))
            await s.published(MailSent, user_id="2")
    module = re.escape(welcome.__module__)
    assert re.sub(f"{module}\\.", "", str(no.value)) == (
        """\
waited 0.2 s for MailSent(user_id='2') to be published.

accounts.registered acc-1 from accounts
  · handled by announce (accounts)
  └ accounts.user-created acc-2 from accounts
      · handled by welcome (mailing)
      └ mailing.mail-sent mail-1 from mailing
          · handled by message_store (mailing)
      └ mailing.welcomed mail-2 from mailing
          · handled by Archive.remember (accounts)"""
    )


async def test_the_tree_shows_errors_and_what_nobody_has_handled() -> None:
    wire = MemoryTransport()
    service = mailing_service(wire)
    async with story(service) as s:
        assert s.tree() == "Nothing was published, and no listener was called."
        await s.publish(NOWHERE)
        await s.failed(welcome)
        lines = s.tree().splitlines()
    assert lines[0].startswith("accounts.user-created ")
    assert lines[1].endswith("welcome (mailing): SmtpError('no such address: nowhere')")
    assert len(lines) == 2


# --- where a story runs -------------------------------------------------------------------------------------


async def test_a_service_that_runs_already_runs_on_after_the_story() -> None:
    service = mailing_service()
    async with service:
        async with story(service) as s:
            await s.publish(ANA)
            await s.handled(welcome)
        assert service.running
        async with story(service) as s:
            await s.never_published(MailSent)
    assert not service.running


Wire: TypeAlias = Callable[[], Transport]


@pytest.fixture(params=["memory", "redis"])
def wire(request: pytest.FixtureRequest) -> Wire:
    if request.param == "memory":
        shared = MemoryTransport()
        return lambda: shared
    server: ValkeyServer = request.getfixturevalue("valkey")
    return lambda: RedisPubSub(server.url)


async def test_the_same_story_is_told_in_memory_and_over_a_real_broker(wire: Wire) -> None:
    archive = Archive()
    async with story(accounts_service(wire(), archive), mailing_service(wire())) as s:
        await s.publish(Registered(id="1", email="ana@example.com"))

        created: Envelope = await s.handled(welcome, id="1")
        await s.handled(message_store, user_id="1")
        welcomed = await s.handled(archive.remember, user_id="1")
        await s.never_published(UserCreated, id="2")

    assert archive.welcomed == ["1"]
    assert created.correlation_id == welcomed.correlation_id == "acc-1"
    assert welcomed.causation_id == created.id


async def test_events_arrive_from_outside_in_memory_and_over_a_real_broker(wire: Wire) -> None:
    async with story(mailing_service(wire())) as s:
        await s.publish(ANA)
        await s.published(Welcomed, user_id="1")
        await s.publish(NOWHERE)
        assert isinstance(await s.failed(welcome), SmtpError)


# --- durable listeners of domain events ---------------------------------------------------------------------


class Invited(DomainEvent, name="mailing.invited", version=1, key="guest"):
    guest: str


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/story.sqlite"
    databases: ScratchDatabases = request.getfixturevalue("postgres")
    return databases.database()


async def test_a_failing_durable_domain_listener_is_retried_and_not_called_for_a_rollback(
    database_url: str,
) -> None:
    @on(Invited, when="durable", name="mailing.invite", retry=Retry(attempts=3, base=0.05, cap=0.1))
    async def invite(event: Invited, context: Context, tx: Transaction) -> None:
        if context.attempt == 1:
            raise SmtpError("try again")
        await tx.publish(MailSent(user_id=event.guest))

    service = Service("mailing", modules=[invite, message_store], store=SqlAlchemyStore(create_engine(database_url)))
    async with story(service) as s:
        with pytest.raises(SmtpError):
            async with service.transaction() as tx:
                await tx.publish(Invited(guest="nobody"))
                raise SmtpError
        await s.publish(Invited(guest="ana"))

        assert str(await s.failed(invite)) == "try again"
        await s.handled(invite, guest="ana")
        await s.published(MailSent, user_id="ana")
        await s.never_published(MailSent, user_id="nobody")


# --- the rolled-back session --------------------------------------------------------------------------------


@on(Registered)
async def keep(event: Registered, session: AsyncSession) -> None:
    await session.execute(text("INSERT INTO kept VALUES (:id)"), {"id": event.id})


@on(Registered, when="after_commit")
async def too_early(event: Registered) -> None:
    raise AssertionError("nothing was committed")


@pytest.fixture(params=["sqlite", "postgresql"])
async def connection(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[AsyncConnection]:
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path}/kept.sqlite"
    else:
        databases: ScratchDatabases = request.getfixturevalue("postgres")
        url = databases.database()
    engine = create_engine(url, poolclass=NullPool)
    async with engine.begin() as setup:
        await setup.execute(text("CREATE TABLE kept (id TEXT)"))
    async with engine.connect() as connection:
        outer = await connection.begin()
        yield connection
        await outer.rollback()
    async with engine.connect() as later:
        assert list((await later.execute(text("SELECT id FROM kept"))).scalars()) == []
    await engine.dispose()


async def test_in_a_session_that_is_rolled_back_at_the_end_nothing_leaves_and_nothing_stays(
    connection: AsyncConnection,
) -> None:
    sessions = async_sessionmaker(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
    wire = MemoryTransport()
    service = Service(
        "accounts",
        modules=[announce, keep, too_early],
        publishes=[UserCreated],
        store=SqlAlchemyStore(connection.engine, sessions),
        transport=wire,
    )
    async with story(service, mailing_service(wire)) as s:
        await s.publish(Registered(id="1", email="ana@example.com"))
        await s.published(UserCreated, id="1")
        await s.handled(keep, id="1")
        with pytest.raises(ValueError, match="needs an address"):
            await s.publish(Registered(id="2", email=""))
        async with service.transaction() as tx:
            await tx.session.execute(text("INSERT INTO kept VALUES ('3')"))
            with pytest.raises(SmtpError):
                async with tx.savepoint():
                    await tx.publish(Registered(id="4", email="eva@example.com"))
                    raise SmtpError
        await s.never_published(Registered, id="2")
        await s.never_published(UserCreated, id="4")
        await s.never_published(MailSent)
        assert list((await connection.execute(text("SELECT id FROM kept ORDER BY id"))).scalars()) == ["1", "3"]
