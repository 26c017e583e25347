"""Text from elsewhere, in a log of one line per happening."""

import re

__all__ = ["one_line"]

_NOT_FOR_A_LINE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")


def one_line(text: str) -> str:
    """The text with control characters spelled out: an id from the wire cannot forge a line, nor turn one round."""
    return _NOT_FOR_A_LINE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
