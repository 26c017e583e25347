"""The unit of work as FastAPI dependencies: committed before the response leaves."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, Request

from cauce.errors import CauceError
from cauce.publishing.transaction import Transaction
from cauce.service.service import Service

__all__ = ["ReadTx", "Tx", "service_of"]


def service_of(request: Request) -> Service:
    """The service this application runs in. CauceError if it was not given its lifespan."""
    service = getattr(request.state, "cauce_service", None)
    if not isinstance(service, Service):
        raise CauceError("no service runs here; give the application its lifespan: FastAPI(lifespan=service.lifespan)")
    return service


async def _transaction(request: Request) -> AsyncGenerator[Transaction]:
    async with service_of(request).transaction() as tx:
        yield tx


async def _read_only(request: Request) -> AsyncGenerator[Transaction]:
    async with service_of(request).transaction(read_only=True) as tx:
        yield tx


# scope="function": the commit comes before the response leaves. By default FastAPI sends the response first, and a
# commit that fails would already have been answered with success.
Tx = Annotated[Transaction, Depends(_transaction, scope="function")]
"""A transaction for this request: committed before the response leaves, rolled back when the endpoint raises."""

ReadTx = Annotated[Transaction, Depends(_read_only, scope="function")]
"""A read-only transaction: takes no write lock, refuses to publish."""
