"""Errors of the database without the values that they quote.

PostgreSQL names a row's values in the detail of an error (`Key (email)=(…) already exists`), and what could not be read
as a number or a date in its first line. `orig.diag` of psycopg still has all of it, for code that asks.
"""

from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

__all__ = ["hide_values", "without_values"]

_DATA_ERRORS = "22"
"""The class of SQLSTATE whose first line quotes what the statement was given."""
_DETAILS = ("DETAIL:", "CONTEXT:")


def hide_values(engine: Engine) -> None:
    """Let the errors of this engine say what happened, and to what, but no value. Once is enough."""
    if not event.contains(engine, "handle_error", _hide):
        event.listen(engine, "handle_error", _hide)


def without_values(error: BaseException) -> str:
    """The text of a driver's error, of PostgreSQL's drivers or any other, without the values that it quotes."""
    text = _first_lines(error)
    if str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")[:2] == _DATA_ERRORS:
        first, last = text.find('"'), text.rfind('"')
        if first != -1:  # the value may hold quotes itself
            text = f'{text[:first]}"…"{text[last + 1 :] if last > first else ""}'
    return text


def _first_lines(error: BaseException) -> str:
    diagnosis: Any = getattr(error, "diag", None)
    primary = getattr(diagnosis, "message_primary", None)
    if primary:
        hint = getattr(diagnosis, "message_hint", None)
        return f"{primary}\nHINT: {hint}" if hint else str(primary)
    text = str(error)
    found = [at for label in _DETAILS if (at := text.find(f"\n{label}")) != -1]
    return text[: min(found)] if found else text


def _hide(context: ExceptionContext) -> None:
    original, shown = context.original_exception, context.sqlalchemy_exception
    if not isinstance(original, _database_error(context)):
        if isinstance(original, LookupError) and shown is not None:  # SQLAlchemy's Enum names what it was given
            _say(shown, f"({type(original).__module__}.{type(original).__name__}) the value is not one of the type's")
            original.args = ("the value is not one of the type's",)
        return
    text = without_values(original)
    _say(original, text)
    if original.__cause__ is not None:  # asyncpg's own error, beneath SQLAlchemy's
        _forget_detail(original.__cause__, text)
    if shown is not None:
        _say(shown, f"({type(original).__module__}.{type(original).__name__}) {text}")


def _database_error(context: ExceptionContext) -> type[BaseException]:
    dbapi: Any = context.dialect.loaded_dbapi
    return dbapi.Error


def _say(error: BaseException, text: str) -> None:
    error.args = (text, *error.args[1:])


def _forget_detail(error: BaseException, text: str) -> None:
    error.args = (text,)
    for name in ("detail", "context", "query", "internal_query"):
        if getattr(error, name, None) is not None:
            setattr(error, name, None)
