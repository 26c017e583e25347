"""The door to FastAPI: a transaction for each request, errors as problem documents, a limit for bodies.

    app = FastAPI(lifespan=service.lifespan)
    app.add_middleware(BodyLimit, max_bytes=64 * 1024)
    problems.install(app)

    @app.post("/users", status_code=201)
    async def create(body: NewUser, tx: Tx) -> UserView: ...

Read transactions, problem_document, problems, body_limit. The names are re-exported here because this path is public.
"""

from cauce.fastapi import problems
from cauce.fastapi.body_limit import BodyLimit
from cauce.fastapi.transactions import ReadTx, Tx, service_of, transaction_of

__all__ = ["BodyLimit", "ReadTx", "Tx", "problems", "service_of", "transaction_of"]
