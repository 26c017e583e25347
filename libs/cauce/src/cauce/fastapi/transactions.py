"""The unit of work as FastAPI dependencies: committed before the response leaves."""

from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from cauce.errors import CauceError
from cauce.publishing.transaction import Transaction
from cauce.service.service import LIFESPAN_STATE, Service

__all__ = ["ReadTx", "Tx", "service_of", "transaction_of"]


def service_of(request: HTTPConnection) -> Service:
    """The service this application runs in; `request` is a Request or a WebSocket.

    CauceError if the application was not given its lifespan, does not hand on its state, or runs several services.
    """
    state: Mapping[str, Any] = request.scope.get("state") or {}
    found = {id(one): one for key, one in state.items() if key.startswith(LIFESPAN_STATE) and isinstance(one, Service)}
    if len(found) > 1:
        names = ", ".join(sorted(one.name for one in found.values()))
        raise CauceError(
            f"several services run in this application ({names}), and Tx does not say which is meant. Name it: "
            "ShopTx = Annotated[Transaction, transaction_of(shop)]"
        )
    if not found:
        raise CauceError(f"no service runs here; {_way_out(request)}")
    return next(iter(found.values()))


def transaction_of(service: Service, *, read_only: bool = False) -> Any:
    """A dependency like `Tx` for one of several services: `ShopTx = Annotated[Transaction, transaction_of(shop)]`."""

    async def transaction() -> AsyncGenerator[Transaction]:
        async with service.transaction(read_only=read_only) as tx:
            yield tx

    return Depends(transaction, scope="function")


async def _transaction(request: HTTPConnection) -> AsyncGenerator[Transaction]:
    async with service_of(request).transaction() as tx:
        yield tx


async def _read_only(request: HTTPConnection) -> AsyncGenerator[Transaction]:
    async with service_of(request).transaction(read_only=True) as tx:
        yield tx


def _way_out(request: HTTPConnection) -> str:
    scope = request.scope
    if scope.get("root_path", "") != scope.get("app_root_path", scope.get("root_path", "")):
        return (
            "this application is mounted in another one, and only the outermost one's lifespan is run: give that one "
            "lifespan=service.lifespan"
        )
    lifespan: object = getattr(getattr(scope.get("app"), "router", None), "lifespan_context", None)
    if lifespan is None or type(lifespan).__name__ == "_DefaultLifespan":
        return "give the application its lifespan: FastAPI(lifespan=service.lifespan)"
    return (
        "the application has a lifespan, and its state did not reach this request. A lifespan of your own hands on the "
        "service's: async with service.lifespan(app) as state: yield state. In a test, httpx.ASGITransport runs no "
        "lifespan, and TestClient only as a context manager"
    )


# scope="function": the commit comes before the response leaves. By default FastAPI sends the response first, and a
# commit that fails would already have been answered with success.
Tx = Annotated[Transaction, Depends(_transaction, scope="function")]
"""A transaction for this request: committed before the response leaves, rolled back when the endpoint raises.

On a WebSocket: committed when the endpoint returns. One that lives long opens a transaction for each message instead.
"""

ReadTx = Annotated[Transaction, Depends(_read_only, scope="function")]
"""A read-only transaction: takes no write lock, refuses to publish."""
