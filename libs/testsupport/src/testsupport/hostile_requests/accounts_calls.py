"""What accounts-ms can be asked."""

from random import Random
from typing import Any, Final

from testsupport.hostile_requests.hostile_values import identifier
from testsupport.hostile_requests.request import MARK

__all__ = ["BODY_LIMIT", "a_call"]

BODY_LIMIT: Final = 16 * 1024


def a_call(chance: Random) -> tuple[str, str, dict[str, str], Any]:
    """Method, target, headers and body of a request that is right; the body is None where there is none."""
    way = chance.random()
    if way < 0.15:
        key = {"Idempotency-Key": f"key-{chance.randrange(30)}"} if chance.random() < 0.2 else {}
        return "POST", "/users", key, _body(chance)
    path = f"/users/{identifier(chance, 20)}"
    if way < 0.4:
        changed = {name: value for name, value in _body(chance).items() if name in ("username", "email")}
        return "PUT", path, {}, {name: value for name, value in changed.items() if chance.random() < 0.7}
    return ("GET" if way < 0.9 else "DELETE"), path, {}, None


def _body(chance: Random) -> dict[str, Any]:
    """A sign-up: of a few ids, names and addresses, so that some are taken."""
    number = chance.randrange(60)
    person = {
        "username": chance.choice((f"{MARK} {number}", f"José {number}", f"{MARK}ﬀ{number}"[:64], f"李{number}")),
        "password": f"{MARK}-pass-{number}",
        "email": chance.choice((f"{MARK}{number}@example.com", f"{MARK}{number}@münchen.example")),
    }
    return ({"id": identifier(chance, 20)} if chance.random() < 0.8 else {}) | person
