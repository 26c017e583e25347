"""What is printed of a message and of the attempts to handle it, for whatever keeps both."""

import json
from collections.abc import Iterator, Sequence

from cauce.admin.masking import masked, masked_text
from cauce.cli.screen import dim, lines_of, plural
from cauce.cli.when import stamp
from cauce.formats.anybodys_json import payload_of_message
from cauce.stores.sql.recorded_attempts import RecordedAttempt
from cauce.telemetry.log_text import one_line

__all__ = ["attempt_lines", "message_lines"]


def attempt_lines(tried: Sequence[RecordedAttempt]) -> Iterator[str]:
    """Every attempt with its time and its error."""
    if not tried:
        return
    yield dim("  attempts")
    for number, attempt in enumerate(tried, start=1):
        head = f"    {number:>3}  {stamp(attempt.at)}  "
        yield from lines_of(attempt.error, indent=len(head), first=head)


def message_lines(message: bytes) -> Iterator[str]:
    """The payload with secrets masked, or the beginning of bytes that are no event."""
    yield ""
    size = plural(len(message), "byte")
    if (payload := payload_of_message(message)) is not None:
        yield dim("  payload")
        shown = json.dumps(masked(payload), indent=2, ensure_ascii=False)
        yield from (f"    {line}" for line in shown.split("\n"))
        yield dim(f"    in a message of {size}: --raw writes it as it came")
        return
    yield dim(f"  message, {size}: --raw writes them as they came")
    text = one_line(masked_text(message))
    room = 76
    for at in range(0, min(len(text), 8 * room), room):
        yield f"    {text[at : at + room]}"
    if len(text) > 8 * room:
        yield "    …"
