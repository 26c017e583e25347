from events import UserCreated
from cauce import Context, Service, on
from cauce.hosting import run
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.transports.redis_streams import RedisStreams

@on(UserCreated)
async def welcome(event: UserCreated, context: Context) -> None:
    print(f"Welcome, {event.email}! (event {context.event_id} from {context.source})")

store, transport = SqlAlchemyStore.from_environment("MAILING_DATABASE_URL"), RedisStreams.from_environment()
raise SystemExit(run(Service("mailing", modules=[welcome], store=store, transport=transport, start="retained")))
