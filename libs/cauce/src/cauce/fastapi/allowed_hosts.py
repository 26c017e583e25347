"""The names a service is called by: pure ASGI, asked before anything else of a request.

A page of a stranger whose name resolves to this machine (DNS rebinding) makes a browser send requests here. They carry
the stranger's name in Host.
"""

import string
from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from cauce.errors import ConfigurationError
from cauce.fastapi.problem_document import problem_response

__all__ = ["AllowedHosts"]

_EXPECTED: Final = "expected a name such as shop.example, an address, *.shop.example or *, without port and path"
_OF_A_NAME: Final = frozenset(string.ascii_lowercase + string.digits + "-._")
_OF_AN_ADDRESS: Final = frozenset(string.hexdigits + ":.")


class AllowedHosts:
    """Answers 400, as a problem document, to a request whose Host is none of `hosts`, or is not there exactly once.

    A host is a name or an address without its port; case does not matter. `*.example.com` allows every name below
    example.com, `*` allows all. A WebSocket is refused before it is opened.

    Raises ConfigurationError for what can be no host, such as one with a port or a path.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str]) -> None:
        written = [host.strip().lower() for host in hosts]
        if problems := [f"the allowed host {host!r}: {_EXPECTED}" for host in written if not _is_a_pattern(host)]:
            raise ConfigurationError(problems)
        given = {host.strip("[]").rstrip(".") for host in written}
        self._app = app
        self._any = "*" in given
        self._names = frozenset(given)
        self._below = tuple(host[1:] for host in given if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._any or scope["type"] not in ("http", "websocket") or self._allows(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            response = problem_response(400, detail="This service is not served under the name in Host.")
            await response(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"host"]
        name = _name(given[0].decode("latin-1").lower()) if len(given) == 1 else ""
        return bool(name) and (name in self._names or name.endswith(self._below))


def _is_a_pattern(host: str) -> bool:
    """Whether it is `*`, an address, or a name that may begin with `*.`."""
    name = host.removeprefix("*.").rstrip(".")
    is_address = ":" in name and set(name.removeprefix("[").removesuffix("]")) <= _OF_AN_ADDRESS
    return host == "*" or is_address or (bool(name) and _OF_A_NAME.issuperset(name))


def _name(host: str) -> str:
    """Without its port and brackets; empty if it is no host.

    `evil.example/.shop.example` ends as `*.shop.example` does, and would lead to evil.example in every link that is made
    of it.
    """
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        well_formed = bool(closed) and (not port or (port[0] == ":" and port[1:].isdecimal()))
    else:
        name, colon, port = host.partition(":")
        well_formed = (not colon or port.isdecimal()) and _OF_A_NAME.issuperset(name)
    return name.rstrip(".") if well_formed else ""
