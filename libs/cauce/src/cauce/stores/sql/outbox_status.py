"""The state of an outbox, for operators: unsent events by name, and how far back lost ones could be sent again.

Tables: cauce_sent (by its primary key), cauce_meta; and those of the figures.
"""

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from cauce.ports.figures import Figures, OutboxFigures
from cauce.stores.sql.connections import ask
from cauce.stores.sql.figures import read_figures
from cauce.stores.sql.outbox import UNSENT_BY_NAME
from cauce.stores.sql.registry import description_of
from cauce.stores.sql.sent import CAPPED_AT
from cauce.stores.sql.set_aside import SetAside, select_set_aside

__all__ = ["Kept", "OnTheirWay", "OutboxStatus", "read_outbox"]


class OnTheirWay(Struct, frozen=True, kw_only=True):
    """Unsent events of one name, counted as in OutboxFigures. `oldest_s` is the age of the oldest of them all."""

    name: str
    waiting: int
    oldest_s: float
    behind: int
    set_aside: int


class Kept(Struct, frozen=True, kw_only=True):
    """How many sent events the service keeps, as it said at its last start."""

    seconds: float
    rows: int
    bytes: int


class OutboxStatus(Struct, frozen=True, kw_only=True):
    service: str
    figures: OutboxFigures
    on_their_way: tuple[OnTheirWay, ...]
    set_aside: tuple[SetAside, ...]
    last_sent_s: float | None
    keep: Kept | None
    capped_s: float | None
    """How long ago events went because they were too many or too large; None if none ever did."""
    lanes_owned: int
    lanes: int

    @property
    def shortened_to_s(self) -> float | None:
        """How far back events could be sent again where younger ones than promised went; None where none did."""
        if self.keep is None or self.capped_s is None or self.capped_s >= self.keep.seconds:
            return None
        oldest_s = self.figures.oldest_sent_s or 0.0
        return oldest_s if oldest_s < self.keep.seconds else None


async def read_outbox(connection: AsyncConnection) -> tuple[OutboxStatus, Figures]:
    """Read the outbox, and the figures of the same moment. Raises NoTablesError."""
    figures = await read_figures(connection)
    unsent = await ask(connection, UNSENT_BY_NAME)
    last = await ask(
        connection,
        "SELECT :NOW - sent_at AS age FROM cauce_sent ORDER BY sent_seq DESC LIMIT 1",
    )
    capped = await ask(
        connection,
        f"SELECT :NOW - CAST(value AS double precision) AS age FROM cauce_meta WHERE name = '{CAPPED_AT}'",
    )
    description = await description_of(connection)
    return OutboxStatus(
        service=figures.service,
        figures=figures.outbox,
        on_their_way=tuple(
            OnTheirWay(
                name=str(row.name),
                waiting=int(row.waiting),
                oldest_s=round(max(0.0, figures.at - float(row.oldest)), 3),
                behind=int(row.behind),
                set_aside=int(row.set_aside),
            )
            for row in unsent
        ),
        set_aside=tuple(await select_set_aside(connection)),
        last_sent_s=round(float(last[0].age), 3) if last else None,
        keep=None
        if description is None
        else Kept(seconds=description.sent_s, rows=description.sent_rows, bytes=description.sent_bytes),
        capped_s=round(max(0.0, float(capped[0].age)), 3) if capped else None,
        lanes_owned=figures.lanes_owned,
        lanes=figures.lanes,
    ), figures
