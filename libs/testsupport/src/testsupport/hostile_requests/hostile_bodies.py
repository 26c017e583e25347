"""A body, what its headers say of it, and what of it is sent: fitting, or not."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from testsupport.hostile_requests.hostile_values import document_text, hostile_value, mutated
from testsupport.hostile_requests.request import MARK

__all__ = ["Body", "fitting", "hostile_body"]

Headers = tuple[tuple[str, str], ...]
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Body:
    """`whole`: its framing is right, so that the request ends where the body does."""

    data: bytes
    headers: Headers
    whole: bool = True
    missing: int = 0
    """So many bytes at its end are not sent."""


def framed(data: bytes, media_type: str | None = _JSON, *more: tuple[str, str]) -> Body:
    declared = () if media_type is None else (("Content-Type", media_type),)
    return Body(data, (*declared, *more, ("Content-Length", str(len(data)))))


def fitting(text: str) -> Body:
    return framed(text.encode("utf-8", "surrogatepass"))


def hostile_body(chance: Random, document: Any, limit: int) -> Body:
    """Something for the right body `document` that the service takes at most `limit` bytes of."""
    way = chance.random()
    if way < 0.45:
        return fitting(document_text(chance, mutated(chance, document)))
    if way < 0.55:
        return fitting(document_text(chance, hostile_value(chance)))
    text = document_text(chance, document if chance.random() < 0.5 else mutated(chance, document))
    plain = text.encode("utf-8", "surrogatepass")
    made: tuple[Callable[[], Body], ...] = (
        lambda: framed(plain, chance.choice(_MEDIA_TYPES)),
        lambda: framed(text.encode(chance.choice(_ENCODINGS), "replace"), chance.choice((_JSON, *_MEDIA_TYPES))),
        lambda: framed(bytes(chance.randrange(256) for _ in range(200)) + plain),
        lambda: framed(gzip.compress(plain, mtime=0), _JSON, ("Content-Encoding", chance.choice(("gzip", "br", MARK)))),
        lambda: framed(*_multipart(chance, plain)),
        lambda: _around(chance, text, limit),
        lambda: _chunked(chance, plain),
        lambda: _wrongly_framed(chance, plain),
        lambda: Body(plain, framed(plain).headers, whole=False, missing=chance.randint(1, max(1, len(plain)))),
    )
    return chance.choice(made)()


_MEDIA_TYPES: Final = (
    *(None, "", "text/plain", "application/xml", "application/json; charset=utf-16", "application/problem+json"),
    *("application/jsonp", "APPLICATION/JSON", "application/json;;;=", f"{MARK}/{MARK}", "/", "*/*", "json", "é/ü"),
    *("application/x-www-form-urlencoded", "multipart/form-data", 'multipart/form-data; boundary="'),
)
_ENCODINGS: Final = ("utf-16", "utf-16-le", "utf-32", "utf-32-be", "latin-1", "cp037", "utf-7", "utf-8-sig")


def _multipart(chance: Random, plain: bytes) -> tuple[bytes, str]:
    """A form, whole or half."""
    begun = b'--edge\r\nContent-Disposition: form-data; name="id"; filename="\xff/..\x00"\r\n\r\n' + plain
    whole = begun + b"\r\n--edge--\r\n"
    return whole[: chance.choice((len(whole), len(begun), 10, 40))], "multipart/form-data; boundary=edge"


def _around(chance: Random, text: str, limit: int) -> Body:
    """As many bytes as may be, one more or less, or twice as many: blanks, which JSON allows, or a long text."""
    size = limit + chance.choice((-1, 0, 1, 1_000, limit))
    plain = text.encode("utf-8", "surrogatepass")[:size]
    if chance.random() < 0.5:
        return framed(plain + b" " * (size - len(plain)))
    return framed(b'{"id":"' + MARK.encode() * ((size - 9) // len(MARK)) + b'"}')


def _chunked(chance: Random, plain: bytes) -> Body:
    """In pieces, well or badly made."""
    pieces = [plain[at : at + 700] for at in range(0, min(len(plain), 70_000), 700)]
    whole = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    headers = (("Content-Type", _JSON), ("Transfer-Encoding", "chunked"))
    if chance.random() < 0.5:
        return Body(whole, headers)
    broken = (
        whole.replace(b"\r\n", b"\n"),
        b"ffffffffffffffff\r\n" + whole,
        b"-1\r\n" + whole,
        b"1;" + b"x" * 70_000 + b"\r\n" + whole,
        whole[:-7],
        whole[:-2] + b"Trailer: " + MARK.encode() + b"\r\n\r\n",
    )
    return Body(chance.choice(broken), headers, whole=False)


def _wrongly_framed(chance: Random, plain: bytes) -> Body:
    """A length that is none, or of something else; two of them; two framings."""
    size = len(plain)
    said: tuple[Headers, ...] = (
        (("Content-Length", "-1"),),
        (("Content-Length", "+5"),),
        (("Content-Length", "9" * 40),),
        (("Content-Length", "٣"),),
        (("Content-Length", f"{size}, {size}"),),
        (("Content-Length", str(size)), ("Content-Length", str(size + 1))),
        (("Content-Length", str(size)), ("Transfer-Encoding", "chunked")),
        (("Transfer-Encoding", "gzip, chunked"),),
        (("Transfer-Encoding", MARK),),
        (("Content-Length", str(size // 2)),),
        (),
    )
    return Body(plain, (("Content-Type", _JSON), *chance.choice(said)), whole=False)
