from events import UserCreated
from fastapi import FastAPI, HTTPException
from sqlalchemy import text
from cauce import Service
from cauce.fastapi import Tx
from cauce.hosting import run
from cauce.stores.sqlalchemy import SqlAlchemyStore
from cauce.transports.redis_streams import RedisStreams

store, transport = SqlAlchemyStore.from_environment("ACCOUNTS_DATABASE_URL"), RedisStreams.from_environment()
service = Service("accounts", store=store, transport=transport, publishes=[UserCreated])
app = FastAPI(lifespan=service.lifespan)
@app.post("/users/{email}", status_code=201)
async def sign_up(email: str, tx: Tx) -> None:
    await tx.session.execute(text("CREATE TABLE IF NOT EXISTS users (email text PRIMARY KEY)"))
    insert = text("INSERT INTO users VALUES (:email) ON CONFLICT DO NOTHING RETURNING email")
    if (await tx.session.execute(insert, {"email": email})).first() is None:
        raise HTTPException(409, "This address has signed up already.")
    await tx.publish(UserCreated(email=email))
raise SystemExit(run(service, app=app, port=8000, health_port=9000))
