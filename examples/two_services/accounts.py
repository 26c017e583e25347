from os import environ
from events import UserCreated
from fastapi import FastAPI
from sqlalchemy import text
from cauce import Service
from cauce.fastapi import Tx
from cauce.hosting import run
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_pubsub import RedisPubSub

store = SqlAlchemyStore(create_engine(environ["DATABASE_URL"]))
service = Service("accounts", store=store, transport=RedisPubSub.from_environment(), publishes=[UserCreated])
app = FastAPI(lifespan=service.lifespan)

@app.post("/users/{email}", status_code=201)
async def sign_up(email: str, tx: Tx) -> None:
    await tx.session.execute(text("CREATE TABLE IF NOT EXISTS users (email text PRIMARY KEY)"))
    await tx.session.execute(text("INSERT INTO users VALUES (:email)"), {"email": email})
    await tx.publish(UserCreated(email=email))

raise SystemExit(run(service, app=app, port=8000, health_port=9000))
