"""All SQL on Cauce's own tables, on PostgreSQL and SQLite.

How a statement gets to the database: `engine`, `dialect`, `connections`. The tables: `tables`, and `schema` that makes
them. In the user's transactions: `sessions` (which events survive), `writing` (their rows), `inbox` (a listener's). On
connections of our own: `outbox`, `lanes`, `waiting_room` and `registry`, put together in `message_store`; two of them
share `by_lane`. For operators: `figures`, `outbox_status`, `dead_letters`, `set_aside`, `rewinding`, `checks`, `audit`.
"""
