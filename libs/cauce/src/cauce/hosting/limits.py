"""What a client of the HTTP door may take of the process: time and connections."""

import math
from dataclasses import dataclass

from cauce.errors import ConfigurationError

__all__ = ["HttpLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Limits of an HTTP door. Times are seconds.

    `headers_s`: from the connection, or the first byte of its next request, to the end of the request's headers.
    `body_s`: from there to the end of its body. `request_s`: from its first byte until the whole answer is sent; None
    where answers are meant to last, as server-sent events are. `keep_alive_s`: how long a connection may stay open
    between two requests. `connections`: how many may be open at once, WebSockets included; fewer where the system gives
    the process fewer descriptors.

    A request out of time is answered 408 where nothing was answered yet (503 if the answer is what takes so long), and
    the connection is closed. The endpoint finds its client gone; it is not cancelled. Raises ConfigurationError.
    """

    headers_s: float = 10.0
    body_s: float = 60.0
    request_s: float | None = 120.0
    keep_alive_s: float = 5.0
    connections: int = 1000

    def __post_init__(self) -> None:
        times = {"headers_s": self.headers_s, "body_s": self.body_s, "keep_alive_s": self.keep_alive_s}
        if self.request_s is not None:
            times["request_s"] = self.request_s
        problems = [
            f"HttpLimits({name}={value:g}): a number of seconds above 0 is expected"
            for name, value in times.items()
            if not (value > 0 and math.isfinite(value))
        ]
        if self.connections < 1:
            problems.append(f"HttpLimits(connections={self.connections}): at least 1 connection is expected")
        if problems:
            raise ConfigurationError(problems)
