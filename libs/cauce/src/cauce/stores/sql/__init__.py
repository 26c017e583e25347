"""All SQL on Cauce's own tables, on PostgreSQL and SQLite.

How a statement gets to the database: `engine`, `dialect`, `connections`; `driver_statements` past SQLAlchemy, and on SQLite
`standard_driver` in a thread. The tables: `tables`, `schema` that makes them, `upgrades` from one version to the next. In
the user's transactions: `sessions` (which events survive), `writing` (their rows), `events_with_commit` with the two
drivers' connections (how they travel), `inbox` (a listener's). On connections of our own: `outbox` (what waits, from its
`outbox_floor` on), `sent`, `lanes`, `waiting_room`, `registry` and `work`, put together in `message_store`. For operators: `figures`, `outbox_status`, `dead_letters`, `set_aside`, `rewinding`, `checks`, `audit`.
"""
