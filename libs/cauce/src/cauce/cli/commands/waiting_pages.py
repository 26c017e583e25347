"""What is printed of waiting deliveries: the list, the failing ones in `cauce status`, and everything about one."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from cauce.admin.masking import masked
from cauce.admin.waiting import ChosenDelivery, brief
from cauce.cli.commands.message_pages import attempt_lines, message_lines
from cauce.cli.screen import bold, commands, dim, headed, lines_of, plural, red, yellow
from cauce.cli.when import iso, short, stamp
from cauce.formats.anybodys_json import payload_of_message
from cauce.stores.sql.waiting_deliveries import Waiting

__all__ = ["as_json", "failing_lines", "list_lines", "show_lines"]


_TRIED_AGAIN = {"failing": "failing", "trouble": "in trouble"}
"""The states of what its listener is given again at a time, in words."""


def list_lines(service: str, deliveries: Sequence[ChosenDelivery]) -> Iterator[str]:
    """Those of one service, those of the same cause together."""
    total = deliveries[0].of
    yield f"{bold(service)}  {plural(total, 'waiting event')}"
    for _, group in groupby(deliveries, _cause):
        alike = list(group)
        first = alike[0].delivery
        yield ""
        for text in (f"{first.listener}", _why(first)):
            yield from lines_of(text, indent=2)
        for one in alike:
            yield from _indented(f"{yellow(one.short)}  {one.delivery.name}{_about(one.delivery)}", 4)
        if first.alike > len(alike):
            yield f"    … and {first.alike - len(alike):,} more like this: --limit N"
    if total > sum(one.delivery.alike for one in _first_of_each(deliveries)):
        yield ""
        yield dim("  … and other causes: narrow it down with --listener, --name, --key or --state")
    yield ""
    yield dim(f"  cauce waiting show {deliveries[0].short}")


def _cause(one: ChosenDelivery) -> tuple[str, str, str | None]:
    delivery = one.delivery
    return (
        delivery.consumer,
        delivery.state,
        delivery.error if delivery.state in ("failing", "trouble", "held", "postponed") else None,
    )


def _first_of_each(deliveries: Sequence[ChosenDelivery]) -> Iterator[ChosenDelivery]:
    for _, group in groupby(deliveries, _cause):
        yield next(group)


def _why(one: Waiting) -> str:
    """Why it waits, in words."""
    match one.state:
        case "failing":
            return f"failing: {one.error or 'no error was kept'}{f' · {one.place}' if one.place else ''}"
        case "trouble":
            return f"in {one.error or 'trouble with the database'}"
        case "due":
            return "due: taken as soon as a process of the service has time for it"
        case "behind":
            return "behind an earlier event of the same key"
        case "held":
            return f"held: {one.error or 'nothing makes it due; cauce waiting retry does'}"
        case "postponed":
            return f"postponed until a newer version of the service runs: {one.error}"
        case "paused":
            return f"paused, because {one.paused_because} → cauce listener resume {one.listener}"
        case "gone":
            return (
                f"gone: the listener, or the class of the event, is not in the code any more "
                f"→ cauce waiting move --listener {one.listener} --to OTHER or "
                f"→ cauce waiting discard --listener {one.listener} --because '…'"
            )
        case "dead":
            return f"a dead letter: cauce dead show {brief(one.id)}"


def _about(one: Waiting) -> str:
    parts: list[str] = []
    if one.attempts or one.state in _TRIED_AGAIN:
        parts.append(_attempt(one))
    if one.state in _TRIED_AGAIN:
        parts.append(_next_try(one))
    if one.key is not None:
        parts.append(f"key {one.key}")
    if one.head_id is not None:
        parts.append(f"behind {brief(one.head_id)}")
    if one.behind and one.head_id is None:
        parts.append(f"{one.behind:,} behind it")
    if not parts or one.state not in _TRIED_AGAIN:
        parts.append(f"since {stamp(one.created_at)}")
    return "".join(f" · {part}" for part in parts)


def _attempt(one: Waiting) -> str:
    of = f" of {one.allowed}" if one.allowed is not None else ""
    return f"attempt {one.attempts}{of} failed" if one.attempts else "no attempt used"


def _next_try(one: Waiting) -> str:
    if one.due_in_s is None:
        return "not due"
    return f"next in {short(one.due_in_s)}" if one.due_in_s > 0 else "next now"


def failing_lines(failing: Sequence[ChosenDelivery], count: int) -> Iterator[str]:
    """For `cauce status`: those that are tried next, and the command that tries them now."""
    yield f"  {bold('failing')}"
    for one in failing:
        delivery = one.delivery
        yield from _indented(f"{yellow(one.short)}  {delivery.name} → {delivery.listener}{_about(delivery)}", 4)
        yield from lines_of(_error_of(delivery), indent=6)
    if count > len(failing):
        yield f"    … and {count - len(failing):,} more: cauce waiting list --state failing"
    yield f"    {dim('try now:')} cauce waiting retry {failing[0].short}"


def _error_of(one: Waiting) -> str:
    return f"{one.error or 'no error was kept'}{f' · {one.place}' if one.place else ''}"


def show_lines(one: ChosenDelivery) -> Iterator[str]:
    """Everything about one."""
    delivery = one.delivery
    yield f"{bold('waiting event ' + one.short)}  {dim(one.target.name)}"
    yield ""
    yield from headed(_facts(delivery))
    yield ""
    yield from attempt_lines(delivery.tried)
    yield from message_lines(delivery.message)
    yield ""
    yield from commands(*_commands(one))


def _facts(one: Waiting) -> Iterator[tuple[str, str]]:
    envelope = one.envelope
    yield "event", f"{one.name}{f', version {envelope.version}' if envelope else ''}"
    yield "event id", one.event_id
    yield "listener", one.listener
    yield "waits", _why(one) if one.state not in _TRIED_AGAIN else f"{_TRIED_AGAIN[one.state]}: it will be tried again"
    if one.error:
        yield "last error", red(one.error)
    if one.place:
        yield "place", one.place
    yield "attempts", f"{one.attempts} of {one.allowed}" if one.allowed is not None else str(one.attempts)
    if one.in_trouble_since is not None:
        yield "in trouble", f"since {stamp(one.in_trouble_since)}"
    if one.state in _TRIED_AGAIN and one.next_at is not None:
        yield "next try", f"{stamp(one.next_at)}, {_next_try(one).removeprefix('next ')}"
    if one.key is not None:
        yield "key", f"{one.key} · {one.ahead:,} ahead of it, {one.behind:,} behind it"
    if one.head_id is not None:
        what = "dead letter" if one.head_dead else "event"
        because = f": {one.head_error}" if one.head_error else ""
        yield "behind", f"{what} {brief(one.head_id)}{because}"
    yield "from", one.source
    if envelope is not None:
        yield "occurred", stamp(envelope.occurred_on.timestamp())
        if envelope.correlation_id != one.event_id:
            yield "conversation", envelope.correlation_id
    yield "waits since", stamp(one.created_at)
    yield "came by", one.channel or "this service's own database"


def _commands(one: ChosenDelivery) -> Iterator[str]:
    delivery = one.delivery
    if delivery.state == "dead":
        yield f"cauce dead show {one.short}"
        return
    if delivery.state in ("failing", "trouble", "held", "postponed"):
        yield f"cauce waiting retry {one.short}"
    if delivery.state == "paused":
        yield f"cauce listener resume {delivery.listener}"
    if delivery.head_id is not None:
        yield f"cauce {'dead' if delivery.head_dead else 'waiting'} show {brief(delivery.head_id)}"
    if delivery.state == "gone":
        yield f"cauce waiting move {one.short} --to LISTENER"
    yield f"cauce waiting discard {one.short} --because '…'"


def _indented(text: str, indent: int) -> Iterator[str]:
    yield from lines_of(text, indent=indent + 2, first=" " * indent)


def as_json(one: Waiting) -> dict[str, Any]:
    """The same for programs; the payload with secrets masked."""
    return {
        "id": one.id,
        "event": one.name,
        "event_id": one.event_id,
        "source": one.source,
        "listener": one.listener,
        "consumer": one.consumer,
        "state": one.state,
        "error": one.error,
        "place": one.place,
        "in_trouble_since": None if one.in_trouble_since is None else iso(one.in_trouble_since),
        "attempts": one.attempts,
        "allowed_attempts": one.allowed,
        "next_at": None if one.next_at is None else iso(one.next_at),
        "due_in_s": one.due_in_s,
        "key": one.key,
        "ahead": one.ahead,
        "behind": one.behind,
        "head": one.head_id,
        "head_error": one.head_error,
        "head_is_dead": one.head_dead,
        "like_this": one.alike,
        "tried": [{"at": iso(attempt.at), "error": attempt.error} for attempt in one.tried],
        "created_at": iso(one.created_at),
        "channel": one.channel,
        "bytes": len(one.message),
        "payload": masked(payload_of_message(one.message)),
    }
