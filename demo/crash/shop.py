"""Takes orders over HTTP; each is published in the transaction of its request."""

import sys
from os import environ

from cauce import Service
from cauce.fastapi import Tx
from cauce.hosting import run
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from fastapi import FastAPI

from demo.crash.events import OrderPlaced


def main() -> int:
    store = SqlAlchemyStore(create_engine(environ["SHOP_DATABASE_URL"]))
    service = Service("shop", store=store, transport=RedisStreams(environ["SHOP_REDIS_URL"]), publishes=[OrderPlaced])
    app = FastAPI(lifespan=service.lifespan)

    @app.post("/orders/{order}/{email}", status_code=201)
    async def place(order: str, email: str, tx: Tx) -> None:
        await tx.publish(OrderPlaced(order=order, email=email))

    return run(service, app=app, port=int(environ["SHOP_PORT"]), health_port=int(environ["SHOP_HEALTH_PORT"]))


if __name__ == "__main__":
    sys.exit(main())
