"""The door to FastAPI: a transaction for each request, errors as problem documents, and what is refused before it is read.

    app = FastAPI(lifespan=service.lifespan)
    app.add_middleware(BodyLimit, max_bytes=64 * 1024)
    app.add_middleware(AllowedHosts, hosts=["localhost", "shop.example"])
    problems.install(app)

    @app.post("/users", status_code=201)
    async def create(body: NewUser, tx: Tx) -> UserView: ...

Read transactions, problem_document, problems, body_limit, strict_json, allowed_hosts. The names are re-exported here because this path is public.
"""

from cauce.fastapi import problems
from cauce.fastapi.allowed_hosts import AllowedHosts
from cauce.fastapi.body_limit import BodyLimit
from cauce.fastapi.strict_json import StrictJsonRoute
from cauce.fastapi.transactions import ReadTx, Tx, service_of, transaction_of

__all__ = ["AllowedHosts", "BodyLimit", "ReadTx", "StrictJsonRoute", "Tx", "problems", "service_of", "transaction_of"]
