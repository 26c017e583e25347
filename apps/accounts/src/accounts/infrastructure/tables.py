"""The tables of accounts-ms, as its migrations make them."""

from typing import Final

from sqlalchemy import Column, DateTime, Index, LargeBinary, MetaData, String, Table, Text, UniqueConstraint, func

__all__ = ["idempotency_keys", "metadata", "users"]

metadata: Final = MetaData()

users: Final = Table(
    "users",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("username", String(64), nullable=False),
    Column("username_key", Text, nullable=False),
    Column("email", String(254), nullable=False),
    Column("email_key", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("username_key", name="uq_users_username_key"),
    UniqueConstraint("email_key", name="uq_users_email_key"),
)

idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("salt", LargeBinary, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("user_id", String(36), nullable=False),
    Column("taken", String(64), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index("ix_idempotency_keys_created_at", "created_at"),
)
