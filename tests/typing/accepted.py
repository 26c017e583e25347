"""What a user of Cauce writes, checked strictly by `make check`: nothing here may need an ignore."""

from dataclasses import dataclass
from typing import assert_type

from cauce import (
    Bus,
    Context,
    DomainEvent,
    DomainEventBus,
    Envelope,
    IntegrationEvent,
    IntegrationEventBus,
    Service,
    Transaction,
    on,
)
from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True)
class Song:
    title: str


class SongPlayed(DomainEvent, name="typing.song-played"):
    song: Song
    times: int = 1


class SongSkipped(DomainEvent, name="typing.song-skipped"):
    song: Song


class UserCreated(IntegrationEvent, name="typing.user-created", version=1, key="id", source="typing"):
    id: str


class Library:
    @on(SongPlayed)
    async def remember(self, event: SongPlayed, tx: Transaction, context: Context) -> None:
        assert_type(event.song, Song)
        assert_type(event.times, int)
        assert_type(tx.session, AsyncSession)
        assert_type(context.envelope, Envelope)


@on(SongPlayed, SongSkipped)
async def both(event: SongPlayed | SongSkipped) -> None: ...


@on(SongPlayed)
def any_domain_event(event: DomainEvent) -> None: ...


@on("typing.**", kind=DomainEvent)
async def by_pattern(event: DomainEvent, envelope: Envelope) -> None: ...


@on(SongPlayed, when="after_commit")
async def afterwards(event: SongPlayed) -> None: ...


async def a_use_case(inside: DomainEventBus, outside: IntegrationEventBus) -> None:
    await inside.publish(SongPlayed(song=Song("Río"), times=2))
    assert_type(await outside.publish(UserCreated(id="1")), Envelope)


async def a_transaction_is_both_buses(service: Service) -> None:
    async with service.transaction() as tx:
        await a_use_case(tx, tx)
        assert_type(await tx.publish(SongSkipped(song=Song("Río"))), None)
        assert_type(await tx.publish(UserCreated(id="1")), Envelope)
        assert_type(await tx.get(Library), Library)


Bus([any_domain_event]).emit(SongPlayed(song=Song("Río")))
