"""The way of an event to other services and to durable listeners.

Read `durable` first, which builds and starts the loops of one process; then `outbox` (to the broker), `lanes` (which
process owns which keys), `inbox` (from the broker to a committed outcome), `retention` and `pace`. `volatile` is the
way without a database, at most once; `nestjs_bridge` joins NestJS services to the durable way.
"""
