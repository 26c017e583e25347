"""What is printed of dead letters: the list, and everything about one."""

from collections.abc import Iterator, Sequence
from typing import Any

from cauce.admin.masking import masked
from cauce.admin.replay import ChosenLetter
from cauce.cli.commands.message_pages import attempt_lines, message_lines
from cauce.cli.screen import bold, commands, dim, headed, lines_of, plural, red
from cauce.cli.when import iso, stamp
from cauce.stores.sql.dead_letters import DeadLetter

__all__ = ["as_json", "list_lines", "show_lines"]


def list_lines(service: str, letters: Sequence[ChosenLetter], limit: int) -> Iterator[str]:
    """Those of one service, those of the same cause together; of each cause at most `limit`."""
    causes: dict[tuple[str, ...], list[ChosenLetter]] = {}
    for one in letters:
        letter = one.letter
        causes.setdefault((letter.consumer, letter.name, letter.reason, letter.error), []).append(one)
    several = f" of {len(causes)} causes" if len(causes) > 1 else " of one cause" if len(letters) > 1 else ""
    yield f"{bold(service)}  {plural(len(letters), 'dead letter')}{several}"
    for alike in causes.values():
        first = alike[0].letter
        yield ""
        told = (f"{first.name} → {first.listener}", f"{_how(first)}: {first.error}{_at_place(first)}")
        for text in told:
            yield from lines_of(text, indent=2)
        for one in alike[:limit]:
            yield f"    {red(one.short)}  {stamp(one.letter.last_at)}{_waits(one.letter)}".rstrip()
        if len(alike) > limit:
            yield f"    … and {len(alike) - limit:,} more like this: --limit {len(alike)}"
    yield ""
    yield dim(f"  cauce dead show {letters[0].short}")


def _how(letter: DeadLetter) -> str:
    return (
        f"{letter.reason} after {plural(letter.attempts, 'attempt')}" if letter.reason == "exhausted" else letter.reason
    )


def _at_place(letter: DeadLetter) -> str:
    return f" · {letter.place}" if letter.place else ""


def _waits(letter: DeadLetter) -> str:
    if letter.state == "being_replayed":
        return "  being replayed"
    return f"  {plural(letter.behind, 'later event')} of its key waiting" if letter.behind else ""


def show_lines(one: ChosenLetter, alike: int) -> Iterator[str]:
    """Everything about one. `alike`: how many others died of the same."""
    letter, short = one.letter, one.short
    yield f"{bold('dead letter ' + short)}  {dim(one.target.name)}"
    yield ""
    yield from headed(_about(letter, alike))
    yield ""
    yield from attempt_lines(letter.tried)
    yield from message_lines(letter.message)
    if letter.whole is not None:
        yield dim(f"    the beginning of {letter.whole.size:,} bytes, SHA-256 {letter.whole.sha256}")
    if letter.stack:
        yield ""
        yield dim("  stack")
        yield from (f"  {line}" for line in letter.stack.rstrip().splitlines())
    yield ""
    if letter.envelope is not None and letter.reached_a_listener:
        yield from commands(f"cauce dead replay {short}")
        if alike:
            yield from commands(f"cauce dead replay --listener {letter.listener} --name {letter.name}")
    yield from commands(f"cauce dead discard {short} --because '…'")


def _about(letter: DeadLetter, alike: int) -> Iterator[tuple[str, str]]:
    envelope = letter.envelope
    version = f", version {envelope.version}" if envelope else ""
    yield "event", f"{letter.name}{version}"
    yield "event id", letter.event_id
    yield "listener", letter.listener if letter.reached_a_listener else "none: it was refused on arrival"
    yield "reason", f"{letter.reason}{_meaning(letter)}"
    yield "error", red(letter.error)
    if letter.place:
        yield "place", letter.place
    if letter.key is not None:
        behind = f" · {plural(letter.behind, 'later event')} of this key waiting" if letter.behind else ""
        yield "key", f"{letter.key}{behind}"
    yield "from", _producer(letter)
    if envelope is not None:
        yield "occurred", stamp(envelope.occurred_on.timestamp())
        if envelope.correlation_id != letter.event_id:
            yield "conversation", envelope.correlation_id
        if envelope.causation_id:
            yield "caused by", envelope.causation_id
    yield "came by", letter.channel or "this service's own database"
    yield "worker", f"{letter.worker}, version {letter.version}" if letter.version else letter.worker
    if letter.state == "being_replayed":
        yield "now", "due again: its listener has been asked to take it"
    if alike:
        yield "cause", f"{alike + 1:,} like this (same listener, event and error)"


def _meaning(letter: DeadLetter) -> str:
    match letter.reason:
        case "exhausted":
            return f": failed {plural(letter.attempts, 'time')}, the last one it was allowed"
        case "rejected":
            return ": the listener said it would never work"
        case "crash loop":
            return ": its process died while handling it, again and again"
        case "too old to dedupe":
            return ": delivered again later than the inbox remembers; nobody knows whether it was handled"
        case "undecodable":
            return ": it does not fit its type, so it was never tried"
        case "late":
            return ": a later event of its key had been handled before it came"
        case "uncertain":
            return ": its effect may have happened, and must not happen twice"
        case _:
            return ""


def _producer(letter: DeadLetter) -> str:
    if not letter.source:
        return "nobody knows: it is no event"
    version = letter.envelope.source_version if letter.envelope else None
    return f"{letter.source} {version}" if version else f"{letter.source} (it does not say its version)"


def as_json(letter: DeadLetter) -> dict[str, Any]:
    """The same for programs; the payload with secrets masked."""
    envelope = letter.envelope
    return {
        "id": letter.id,
        "event": letter.name,
        "event_id": letter.event_id,
        "source": letter.source,
        "source_version": envelope.source_version if envelope else None,
        "version": envelope.version if envelope else None,
        "listener": letter.listener,
        "consumer": letter.consumer,
        "reason": letter.reason,
        "error": letter.error,
        "place": letter.place,
        "key": letter.key,
        "state": letter.state,
        "behind": letter.behind,
        "attempts": letter.attempts,
        "tried": [{"at": iso(one.at), "error": one.error} for one in letter.tried],
        "first_at": iso(letter.first_at),
        "last_at": iso(letter.last_at),
        "worker": letter.worker,
        "worker_version": letter.version,
        "channel": letter.channel,
        "bytes": len(letter.message),
        "bytes_in_all": len(letter.message) if letter.whole is None else letter.whole.size,
        "payload": masked(letter.payload),
    }
