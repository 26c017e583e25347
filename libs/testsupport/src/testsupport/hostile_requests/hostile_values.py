"""Values of JSON that are nothing, nearly right, or meant to break something."""

import json
from collections.abc import Callable
from random import Random
from typing import Any, Final
from uuid import UUID

from testsupport.hostile_requests.request import MARK

__all__ = ["document_text", "hostile_text", "hostile_value", "identifier", "mutated"]

_PIECES: Final = (
    *("\0", "\ud800", "\udfff\ud800", "\u202e", "\u2066\u2069", "\u200b", "\u3164", "\u2800", "\ufeff", "\ufffe"),
    *("\r\nBcc: evil@example.com", "\n", "\t", "\x1b[2J", "\x7f", "\u2028", "=?utf-8?q?a=0d=0a?=", "e\u0301", "\u0958"),
    *(
        "'; DROP TABLE users; --",
        '" OR 1=1',
        "%s%n",
        "{{7*7}}",
        "${jndi:ldap://x}",
        "<script>",
        "../../etc/passwd",
        "\\",
    ),
    *("😀", "👨\u200d👩\u200d👧", "ﬃ", "İ", "ß", "ａ", "\U000e0041", "\U0010ffff", "\u0660\u06f0", "\u05d0a", "̃" * 20),
    *("&", "|", "!", "*", ":*", "()", "<->", "NEAR", "AND", '""', "''", ";", ",", "@", "a@b", "xn--", "xn--\u0660"),
)
_EDGES: Final = (
    0,
    1,
    3,
    7,
    8,
    35,
    36,
    37,
    63,
    64,
    65,
    127,
    128,
    129,
    199,
    200,
    201,
    253,
    254,
    255,
    299,
    300,
    301,
    3_000,
)


def identifier(chance: Random, among: int = 40) -> str:
    """One of a few ids, so that requests meet; now and then one in another spelling, or of nobody."""
    if chance.random() < 0.1:
        return str(UUID(int=chance.getrandbits(128)))
    text = str(UUID(int=(0xC10E << 112) + chance.randrange(among)))
    return text.upper() if chance.random() < 0.1 else text


def hostile_text(chance: Random) -> str:
    """Short and strange, long around the limits there are, or both."""
    way = chance.random()
    if way < 0.45:
        return "".join(chance.choice((MARK, *_PIECES)) for _ in range(chance.randint(1, 5)))
    piece = chance.choice(("a", " ", "é", "字", "😀", "\0", "a ", "a@", "\u0301", chance.choice(_PIECES)))
    if way < 0.9:
        length = chance.choice(_EDGES)
        return (piece * (length // len(piece) + 1))[:length]
    return f"{MARK}{chance.choice(_PIECES)}" + piece * chance.choice((1_000, 5_000))


def hostile_value(chance: Random) -> Any:
    """Any JSON value but what is expected."""
    made: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: chance.choice((True, False)),
        lambda: chance.choice((0, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**300, 1e308, -0.0, 1.5, 5e-324)),
        lambda: hostile_text(chance),
        lambda: hostile_text(chance),
        list,
        dict,
        lambda: [hostile_text(chance) for _ in range(chance.randint(1, 4))],
        lambda: {hostile_text(chance): hostile_text(chance) for _ in range(chance.randint(1, 4))},
        lambda: [None] * chance.choice((1, 1_001, 2_001)),
        lambda: nested(chance, chance.choice((3, 30, 300))),
    )
    return chance.choice(made)()


def nested(chance: Random, depth: int) -> Any:
    value: Any = MARK
    for _ in range(depth):
        value = [value] if chance.random() < 0.5 else {chance.choice(("id", "songs", "playlist", "a")): value}
    return value


def mutated(chance: Random, document: Any) -> Any:
    """The document with one thing in it wrong, wherever that is."""
    if isinstance(document, dict) and document and chance.random() < 0.8:
        changed = dict(document)
        name = chance.choice(list(changed))
        way = chance.random()
        if way < 0.15:
            del changed[name]
        elif way < 0.25:
            changed[hostile_text(chance)] = hostile_value(chance)
        elif way < 0.3:
            changed[name.swapcase()] = changed.pop(name)
        else:
            changed[name] = mutated(chance, changed[name])
        return changed
    if isinstance(document, list) and document and chance.random() < 0.7:
        changed_list = list(document)
        changed_list[chance.randrange(len(changed_list))] = mutated(chance, chance.choice(changed_list))
        return changed_list
    if isinstance(document, str) and chance.random() < 0.6:
        at = chance.randint(0, len(document))
        return document[:at] + hostile_text(chance) + document[at:]
    return hostile_value(chance)


def document_text(chance: Random, document: Any) -> str:
    """As JSON; sometimes not quite JSON any more."""
    text = json.dumps(document, ensure_ascii=chance.random() < 0.5)
    way = chance.random()
    if way < 0.75:
        return text
    at = chance.randrange(len(text) + 1)
    made: tuple[Callable[[], str], ...] = (
        lambda: text[:at],
        lambda: text[:at] + chance.choice(_PIECES) + text[at:],
        lambda: text + text,
        lambda: text.replace("{", '{"id": 1, ', 1) if '"id"' in text else text.replace("{", '{"a": 1, "a": 2, ', 1),
        lambda: text.replace('"', "'"),
        lambda: text.replace(":", chance.choice((": NaN, ", ": -Infinity, ", ": 1e999,", ":" + "9" * 5_000 + ","))),
        lambda: chance.choice("[{") * chance.choice((50, 1_500, 100_000)) + text,
        lambda: '{"a":' * chance.choice((50, 3_000)) + "1" + "}" * chance.choice((50, 3_000)),
        lambda: " " * chance.choice((1, 16_300, 70_000)) + text,
        lambda: text.replace("\\u", "\\x"),
        lambda: chance.choice(("", " ", "null", '""', "0", "[]", "{}", "true", "\ufeff{}", "/**/{}", '"\\ud800"')),
    )
    return chance.choice(made)()
