"""The rows that are written: a change of the service, an effect of an event, an outbox and an inbox by hand."""

from sqlalchemy import Column, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "Business", "Effect", "business", "by_hand", "effect_of", "hand_inbox", "hand_outbox"]


class Base(DeclarativeBase):
    pass


class _Row:
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    name: Mapped[str]
    text: Mapped[str]


class Business(_Row, Base):
    __tablename__ = "business"


class Effect(_Row, Base):
    __tablename__ = "effect"


business = Base.metadata.tables["business"]

by_hand = MetaData()
hand_outbox = Table(
    "hand_outbox",
    by_hand,
    Column("id", Integer, primary_key=True),
    Column("key", Text),
    Column("message", LargeBinary, nullable=False),
)
hand_inbox = Table("hand_inbox", by_hand, Column("event_id", Text, primary_key=True))


def effect_of(user_id: str, text: str) -> Effect:
    return Effect(user_id=user_id, name="John", text=text)
