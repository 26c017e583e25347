"""Statements on one transaction's session."""

from sqlalchemy import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.expression import Executable

__all__ = ["changed_a_row"]


async def changed_a_row(session: AsyncSession, statement: Executable) -> bool:
    """Execute an INSERT, UPDATE or DELETE; True if it changed exactly one row."""
    options = {"preserve_rowcount": True}  # of an INSERT, too
    result = await session.execute(statement, execution_options=options)
    return isinstance(result, CursorResult) and result.rowcount == 1
