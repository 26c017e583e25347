"""One request as the bytes that are sent."""

from dataclasses import dataclass, field

__all__ = ["MARK", "Request"]

MARK = "kanari"
"""Is in every text of our own making, so that a log can be searched for what was sent."""

_SHOWN = 4_000


@dataclass(frozen=True, slots=True)
class Request:
    """`sent` of `raw` bytes go out; if that is not all, the sending side is closed after them.

    `whole`: it is one request of HTTP/1.1 that has to be answered, on a connection that can be used again. Anything
    else may also be answered with a closed connection.
    """

    name: str
    """Service, seed and number: the same name is the same request."""
    kind: str
    method: str
    target: str
    raw: bytes = field(repr=False)
    sent: int
    whole: bool

    def __str__(self) -> str:
        """For a failure: what it takes to send it again."""
        shown = self.raw[: self.sent]
        more = f" … {len(shown) - _SHOWN} more bytes" if len(shown) > _SHOWN else ""
        cut = f", cut off after {self.sent} of {len(self.raw)} bytes" if self.sent < len(self.raw) else ""
        return f"{self.name} ({self.kind}{cut})\n{shown[:_SHOWN]!r}{more}"
