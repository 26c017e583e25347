"""Payloads on a screen: whatever a field's name makes look like a secret is not shown."""

import json
import re
from typing import Any, cast

from cauce.events.immutable import secret_looking
from cauce.formats.anybodys_json import read_anybodys

__all__ = ["MASK", "masked", "masked_text"]

MASK = "••••"


def masked(value: Any) -> Any:
    """The JSON value with secret-looking fields replaced, at every depth."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {
            name: MASK if secret_looking(name) and inner is not None else masked(inner)
            for name, inner in fields.items()
        }
    if isinstance(value, list):
        return [masked(inner) for inner in cast("list[Any]", value)]
    return value


def masked_text(raw: bytes) -> str:
    """Bytes that may be JSON or not, as one line of text with secret-looking fields replaced."""
    try:
        return json.dumps(masked(read_anybodys(raw)), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        text = raw.decode("utf-8", errors="backslashreplace")
    # Not JSON, or JSON that was cut off: what looks like a name and a value is treated as one.
    return _NAMED_VALUE.sub(_hidden, text)


# Linear in the text: a name begins where no other one is going on, and is not given back letter by letter.
_NAMED_VALUE = re.compile(r"""((["']?)(?<![\w-])([\w-]++)\2\s*+[:=]\s*+)("(?:[^"\\]|\\.)*+"?|[^\s,}&{\["][^\s,}&]*+)""")


def _hidden(found: re.Match[str]) -> str:
    return f"{found[1]}{MASK}" if secret_looking(found[3]) else found[0]
