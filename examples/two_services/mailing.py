from events import UserCreated
from cauce import Context, Service, on
from cauce.hosting import run
from cauce.transports.redis_pubsub import RedisPubSub

@on(UserCreated)
async def welcome(event: UserCreated, context: Context) -> None:
    print(f"Welcome, {event.email}! (event {context.event_id} from {context.source})")

raise SystemExit(run(Service("mailing", modules=[welcome], transport=RedisPubSub.from_environment())))
