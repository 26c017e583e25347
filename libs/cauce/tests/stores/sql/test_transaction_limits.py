"""On PostgreSQL nobody waits or holds a lock for ever: every transaction of ours says so to the database, and only it."""

from typing import Any

from cauce import IntegrationEvent, Service, on
from cauce.listeners.retry import Retry
from cauce.ports.lanes import MemberId
from cauce.ports.outbox import KeepSent
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.testing import story
from cauce.transports.memory_streams import MemoryStreams
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncSession

LIMITS = (
    "SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'), "
    "current_setting('statement_timeout')"
)


class Asked(IntegrationEvent, name="limits.asked", version=1, source="limits-ms"):
    fails: bool = False


class Limits:
    """A listener that looks at the limits of its own transaction."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    @on(Asked, limit_s=20, retry=Retry(attempts=2, base=0.01, cap=0.01))
    async def look(self, event: Asked, session: AsyncSession) -> None:
        self.seen.append(tuple((await session.execute(text(LIMITS))).one()))
        if event.fails and len(self.seen) == 1:
            raise ValueError


async def test_a_listeners_transaction_is_limited_also_at_a_retry_and_its_connection_is_not(
    store: SqlAlchemyStore,
) -> None:
    limits = Limits()
    service = Service(
        "limits-ms", modules=[limits], store=store, transport=MemoryStreams(), publishes=[Asked], start="retained"
    )
    async with story(service, limit_s=20) as s:
        await s.publish(Asked(fails=True))
        await s.failed(limits.look)
        await s.handled(limits.look)
        async with service.transaction() as tx:
            of_the_user = (await tx.session.execute(text(LIMITS))).one()

    assert limits.seen == [("5s", "25s", "0")] * 2
    assert tuple(of_the_user) == ("0", "0", "0")


async def test_every_writing_transaction_of_the_relays_side_is_limited(store: SqlAlchemyStore) -> None:
    seen: list[tuple[Any, ...]] = []

    def before_commit(connection: Connection) -> None:
        seen.append(tuple(connection.exec_driver_sql(LIMITS).one()))

    event.listen(store.engine.sync_engine, "commit", before_commit)
    message_store = store.message_store()
    me = MemberId("me")
    rows = (await message_store.beat(me, lease_s=60)).rows
    await message_store.take(me, {row.lane: row.epoch for row in rows})
    await message_store.set_aside(1, "too large")
    await message_store.mark_unsent("limits-ms", rows[0].lane, from_seq=None)
    await message_store.prune_sent(KeepSent(seconds=60, rows=10, bytes=1000))
    await message_store.prune_inbox(older_than_s=60, limit=10)
    await message_store.give_back(me, [rows[0].lane])
    await message_store.leave(me)
    event.remove(store.engine.sync_engine, "commit", before_commit)

    assert seen == [("3s", "3s", "1min")] * 8
