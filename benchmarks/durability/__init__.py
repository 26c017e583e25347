"""Ways to get an event from one database into another, exactly once, for durable.py.

What all have in common: a business row or an effect is one row of four columns, written through a SQLAlchemy session
(by hand: through asyncpg); an event's payload is two fields, its message about 315 bytes. Cauce runs on its default
driver, psycopg; FastStream and faststream-outbox on asyncpg, as they document it. Effects are ORM objects for both.

Shared: events, tables, place, waiting, listening. The ways: with_cauce, by_hand, with_faststream. What is measured:
unit_of_work (goal 10), relays (11), whole_way (12), paced_services, failing_key, killed_process, idleness, kept_rows (13).
"""
