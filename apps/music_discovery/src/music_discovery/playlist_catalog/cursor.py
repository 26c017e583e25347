"""Where a search goes on: opaque to clients, and only good for the search it came from."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final

__all__ = ["MAX_CURSOR_LENGTH", "InvalidCursorError", "read_cursor", "write_cursor"]

_POSITION_BYTES: Final = 8
_CHECK_BYTES: Final = 10  # 18 bytes in all: base64 needs no padding
MAX_CURSOR_LENGTH: Final = 24
_CURSOR: Final = re.compile(rf"[A-Za-z0-9_-]{{{MAX_CURSOR_LENGTH}}}")


class InvalidCursorError(ValueError):
    """Not a cursor of ours, or one of another search."""

    def __init__(self) -> None:
        super().__init__(
            "This is not a cursor of this search. Send `nextCursor` of the page before, with the same `q`, "
            "or no cursor to begin again."
        )


def write_cursor(position: int, query: str) -> str:
    """The cursor behind `position` (1 or more) of the search for `query`."""
    raw = position.to_bytes(_POSITION_BYTES, "big")
    return urlsafe_b64encode(raw + _check(raw, query)).decode("ascii")


def read_cursor(cursor: str, query: str) -> int:
    """The position. Raises InvalidCursorError for anything `write_cursor` did not make for this query.

    The check is no secret: a position gives nobody more than the pages everybody may read.
    """
    if not _CURSOR.fullmatch(cursor):
        raise InvalidCursorError
    decoded = urlsafe_b64decode(cursor)
    raw, check = decoded[:_POSITION_BYTES], decoded[_POSITION_BYTES:]
    position = int.from_bytes(raw, "big")
    if check != _check(raw, query) or not 0 < position < 2**63:
        raise InvalidCursorError
    return position


def _check(raw: bytes, query: str) -> bytes:
    return blake2b(raw + query.encode("utf-8", "replace"), digest_size=_CHECK_BYTES, person=b"playlists").digest()
