"""The outbox: what is to be sent, and what was sent, kept in case the broker forgets it.

Tables: cauce_outbox. Unsent rows of a lane by cauce_outbox_unsent (lane, position), those set aside by
cauce_outbox_aside (topic, key), sent ones by cauce_outbox_sent_seq (topic, lane, order of sending) and
cauce_outbox_sent_at, a known event by its unique id. Sending is fenced by the epochs in cauce_lane; adopting asks
cauce_inbox by its primary key.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.events.envelope import Envelope
from cauce.formats.cloudevents import outgoing as message_of
from cauce.ports.lanes import Epoch, Lane, MemberId, lane_of
from cauce.ports.outbox import Backlog, OutboxRow
from cauce.ports.transport import BrokerId
from cauce.stores.sql.by_lane import first_of_each
from cauce.stores.sql.connections import TableGroup
from cauce.stores.sql.dialect import BY_CLOCK, Dialect
from cauce.stores.sql.waiting_room import count_newer
from cauce.stores.storable import storable_line

__all__ = ["UNSENT_BY_NAME", "SqlOutbox", "count_unsent_elsewhere"]

_BEHIND = (
    "o.key IS NOT NULL AND EXISTS (SELECT 1 FROM cauce_outbox s WHERE s.problem IS NOT NULL "
    "AND s.sent_at IS NULL AND s.topic = o.topic AND s.key = o.key AND s.position < o.position)"
)
"""Of an unsent row `o`: an earlier one of its key was set aside, so it has to wait."""
_SENT_SEQ = (
    "(SELECT COALESCE(max(s.sent_seq), 0) + 1 FROM cauce_outbox s "
    "WHERE s.topic = o.topic AND s.lane = o.lane AND s.sent_at IS NOT NULL)"
)
"""Of a row `o` that is marked now: its place in the order of sending of its lane. Only the lane's owner marks, and the
clock may step back, so that a time would not do. Rows of one statement may share a number: `position` decides."""
UNSENT_BY_NAME = f"""
    SELECT name, min(created_at) AS oldest, min(CASE WHEN stands = 'waiting' THEN created_at END) AS oldest_waiting,
        sum(CASE WHEN stands = 'waiting' THEN 1 ELSE 0 END) AS waiting,
        sum(CASE WHEN stands = 'behind' THEN 1 ELSE 0 END) AS behind,
        sum(CASE WHEN stands = 'set_aside' THEN 1 ELSE 0 END) AS set_aside
    FROM (
        SELECT name, created_at,
            CASE WHEN problem IS NOT NULL THEN 'set_aside' WHEN {_BEHIND} THEN 'behind' ELSE 'waiting' END AS stands
        FROM cauce_outbox o WHERE sent_at IS NULL
    ) u GROUP BY name ORDER BY min(created_at)
"""
"""Unsent events by name, for operators. Each is waiting, behind or set aside, and never two."""


class SqlOutbox(TableGroup):
    """The OutboxTable of the ports."""

    async def pending(
        self,
        lanes: Sequence[Lane],
        *,
        limit: int,
        topics: Collection[str] | None = None,
        besides: Collection[int] = (),
    ) -> Sequence[OutboxRow]:
        if not lanes:
            return []
        which, values = self._which_rows(topics, besides)
        async with self._reading() as connection:
            rows = await self._run(
                connection,
                "WITH aside AS MATERIALIZED (SELECT topic, key, min(position) AS position FROM cauce_outbox "
                "WHERE problem IS NOT NULL AND sent_at IS NULL GROUP BY topic, key) "
                + first_of_each(
                    lanes,
                    "SELECT position, event_id, topic, lane, key, message FROM cauce_outbox o "
                    "WHERE sent_at IS NULL AND problem IS NULL AND COALESCE(position < "
                    "(SELECT a.position FROM aside a WHERE a.topic = o.topic AND a.key = o.key), 1 = 1) " + which,
                    order="position",
                    limit=limit,
                ),
                **values,
            )
            return [
                OutboxRow(position, event_id, topic, Lane(lane), key, bytes(message))
                for position, event_id, topic, lane, key, message in rows
            ]

    def _which_rows(self, topics: Collection[str] | None, besides: Collection[int]) -> tuple[str, Mapping[str, Any]]:
        """Which rows are looked at, as conditions and their values."""
        which, values = "", dict[str, Any]()
        if topics is not None:
            which += f"AND {self._dialect.among('topic', 'topics')} "
            values["topics"] = self._dialect.many(sorted(topics))
        if besides:
            which += f"AND NOT ({self._dialect.among('position', 'besides', type_='bigint')})"
            values["besides"] = self._dialect.many(besides)
        return which, values

    async def unsent_elsewhere(self, topics: Collection[str]) -> Mapping[str, int]:
        async with self._reading() as connection:
            return await count_unsent_elsewhere(connection, topics)

    async def set_aside(self, position: int, problem: str) -> None:
        async with self._writing() as connection:
            await self._run(
                connection,
                "UPDATE cauce_outbox SET problem = :problem WHERE position = :position AND sent_at IS NULL",
                problem=storable_line(problem),
                position=position,
            )

    async def mark_sent(self, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]) -> bool:
        # A process that lost one of its lanes changes nothing. The rows of the lanes stay locked until the commit.
        if not self._dialect.postgres:
            return await self._mark_sent_in_turn(owned, me, sent)
        positions, broker_ids = zip(*sent, strict=True)
        async with self._alone() as connection:
            done = await self._run(
                connection,
                "WITH held AS MATERIALIZED (SELECT 1 FROM cauce_lane WHERE member = :me AND (lane, epoch) IN "
                "(SELECT * FROM unnest(CAST(:lanes AS smallint[]), CAST(:epochs AS bigint[]))) "
                "ORDER BY lane FOR SHARE) "
                f"UPDATE cauce_outbox o SET sent_at = (SELECT :NOW), sent_seq = {_SENT_SEQ}, broker_id = m.broker_id "
                "FROM unnest(CAST(:positions AS bigint[]), CAST(:broker_ids AS text[])) AS m(position, broker_id) "
                "WHERE o.position = m.position AND (SELECT count(*) FROM held) = :count",
                me=me,
                lanes=[int(lane) for lane in owned],
                epochs=[int(epoch) for epoch in owned.values()],
                count=len(owned),
                positions=list(positions),
                broker_ids=list(broker_ids),
            )
            return bool(done.rowcount > 0)

    async def _mark_sent_in_turn(
        self, owned: Mapping[Lane, Epoch], me: MemberId, sent: Sequence[tuple[int, BrokerId]]
    ) -> bool:
        async with self._writing() as connection:
            held = await self._run(
                connection,
                f"SELECT lane, epoch FROM cauce_lane WHERE member = :me AND lane IN ({_numbers(list(owned))})",
                me=me,
            )
            if {Lane(lane): Epoch(epoch) for lane, epoch in held} != dict(owned):
                return False
            await connection.execute(
                self._dialect.sql(
                    f"UPDATE cauce_outbox AS o SET sent_at = :NOW, sent_seq = {_SENT_SEQ}, broker_id = :broker_id "
                    "WHERE position = :position"
                ),
                [{"position": position, "broker_id": broker_id} for position, broker_id in sent],
            )
            return True

    async def adopt(self, envelope: Envelope, *, known_to: Sequence[str]) -> bool:
        event = {"topic": envelope.source, "event_id": envelope.id}
        consumers = {f"consumer{number}": consumer for number, consumer in enumerate(known_to)}
        async with self._writing() as connection:
            if consumers:
                known = await self._run(
                    connection,
                    f"SELECT 1 FROM cauce_inbox WHERE consumer IN ({', '.join(f':{one}' for one in consumers)}) "
                    "AND source = :topic AND event_id = :event_id LIMIT 1",
                    **event,
                    **consumers,
                )
                if known.one_or_none() is not None:
                    return False
            done = await self._run(
                connection,
                "INSERT INTO cauce_outbox (event_id, topic, lane, key, name, message, created_at) "
                "VALUES (:event_id, :topic, :lane, :key, :name, :message, :NOW) ON CONFLICT (event_id) DO NOTHING",
                **event,
                lane=int(lane_of(envelope)),
                key=envelope.key,
                name=envelope.name,
                message=message_of(envelope),
            )
            return bool(done.rowcount == 1)

    async def newest_sent(self, topic: str, lane: Lane, *, limit: int) -> Sequence[tuple[int, BrokerId]]:
        # Not by position: the row of a transaction that committed late has a low one, and may have been sent last.
        async with self._reading() as connection:
            rows = await self._run(
                connection,
                "SELECT position, broker_id FROM cauce_outbox WHERE sent_at IS NOT NULL AND topic = :topic AND lane = :lane "
                "ORDER BY sent_seq DESC, position DESC LIMIT :limit",
                topic=topic,
                lane=int(lane),
                limit=limit,
            )
            return [(int(row.position), BrokerId(str(row.broker_id))) for row in reversed(rows.all())]

    async def mark_unsent(self, topic: str, lane: Lane, *, from_position: int | None) -> int:
        async with self._writing() as connection:
            done = await self._run(
                connection,
                "UPDATE cauce_outbox SET sent_at = NULL, broker_id = NULL WHERE topic = :topic AND lane = :lane "
                "AND sent_at IS NOT NULL "
                "AND sent_seq >= COALESCE((SELECT sent_seq FROM cauce_outbox WHERE position = :position), "
                # It was erased meanwhile: from the next one on.
                "(SELECT min(n.sent_seq) FROM cauce_outbox n WHERE n.topic = :topic AND n.lane = :lane "
                "AND n.sent_at IS NOT NULL AND n.position > :position))",
                topic=topic,
                lane=int(lane),
                position=-1 if from_position is None else from_position,
            )
            return int(done.rowcount)

    async def prune_sent(self, *, older_than_s: float, limit: int, clock: float | None = None) -> int:
        async with self._writing() as connection:
            done = await self._run(
                connection,
                "DELETE FROM cauce_outbox WHERE position IN (SELECT position FROM cauce_outbox "
                f"WHERE sent_at IS NOT NULL AND sent_at < (SELECT {BY_CLOCK} - :age) ORDER BY sent_at LIMIT :limit)",
                clock=clock,
                age=older_than_s,
                limit=limit,
            )
            return int(done.rowcount)

    async def sent_over(self, *, rows: int, size: int) -> bool:
        async with self._reading() as connection:
            # Positions are nearly dense and sent nearly in order: the first and the last give a good estimate.
            found = (
                await self._run(
                    connection,
                    "SELECT (SELECT position FROM cauce_outbox WHERE sent_at IS NOT NULL ORDER BY sent_at DESC LIMIT 1) - "
                    "(SELECT position FROM cauce_outbox WHERE sent_at IS NOT NULL ORDER BY sent_at LIMIT 1) + 1 AS n, "
                    "(SELECT avg(length(message)) FROM (SELECT message FROM cauce_outbox WHERE sent_at IS NOT NULL "
                    "ORDER BY sent_at DESC LIMIT 50) s) AS size",
                )
            ).one()
            if found.n is None:
                return False
            return int(found.n) > rows or int(found.n) * float(found.size) > size

    async def backlog(self) -> Backlog:
        async with self._reading_together() as connection:
            unsent = await self._run(
                connection,
                "SELECT count(*) AS n, :NOW - min(created_at) AS oldest FROM cauce_outbox "
                "WHERE sent_at IS NULL AND problem IS NULL",
            )
            waiting = await self._run(
                connection,
                "SELECT consumer, key, count(*) AS n FROM cauce_waiting WHERE key IS NOT NULL "
                "GROUP BY consumer, source, key ORDER BY n DESC LIMIT 1",
            )
            row, longest = unsent.one(), waiting.one_or_none()
            return Backlog(
                unsent=int(row.n),
                oldest_unsent_s=None if row.oldest is None else max(0.0, float(row.oldest)),
                longest=int(longest.n) if longest else 0,
                longest_key=longest.key if longest else "",
                longest_consumer=longest.consumer if longest else "",
                newer_version=await count_newer(connection),
            )


async def count_unsent_elsewhere(connection: AsyncConnection, topics: Collection[str]) -> Mapping[str, int]:
    """Count the unsent rows of other topics than these, by topic."""
    dialect = Dialect(connection.dialect.name)
    statement = (
        "SELECT topic, count(*) AS n FROM cauce_outbox WHERE sent_at IS NULL AND problem IS NULL "
        f"AND NOT ({dialect.among('topic', 'topics')}) GROUP BY topic ORDER BY topic"
    )
    rows = await connection.execute(dialect.sql(statement), {"topics": dialect.many(sorted(topics))})
    return {str(row.topic): int(row.n) for row in rows}


def _numbers(lanes: Sequence[Lane]) -> str:
    return ", ".join(str(int(lane)) for lane in lanes)
