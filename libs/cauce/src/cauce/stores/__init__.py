"""Adapters of the ports `store` and `message_store`: a service's own database, or memory.

`sqlalchemy` is the store for PostgreSQL and SQLite: units of work over the user's sessions. `sql` holds every statement
on Cauce's own tables. `outbox` is the public Outbox for code that owns its session. `memory` is a store without a
database. Read `sqlalchemy`, then `sql/sessions`, then the table groups in `sql`.
"""
