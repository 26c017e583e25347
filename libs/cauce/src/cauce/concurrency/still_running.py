"""Where the code is that still runs: for the log line about something that does not end."""

import asyncio
import sys
import sysconfig
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["still_running"]

_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_OURS = str(Path(__file__).parents[1])
_SHOWN = 3


def still_running(loop: asyncio.AbstractEventLoop, *, threads_before: Collection[threading.Thread] = ()) -> str:
    """Name the places in which tasks of the loop, and threads that would keep the process, are. From any thread.

    Code of the program itself comes first; ours is named only where there is none of the program's.
    """
    me = threading.current_thread()
    threads = [
        one
        for one in threading.enumerate()
        if not one.daemon and one not in (me, threading.main_thread()) and one not in threads_before
    ]
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # documented, and there is no other way
    # What the loop's own thread executes now comes first: it may block it.
    stacks = [("", _in_the_loop(_outward(frames.get(threading.main_thread().ident or 0))))]
    stacks += [("", list(_awaited(task.get_coro()))) for task in asyncio.all_tasks(loop) if not task.done()]
    stacks += [("thread ", list(_outward(frames.get(one.ident or 0)))) for one in threads]
    places = dict.fromkeys(f"{what}{place}" for what, stack in stacks if (place := _place(stack, own=True)))
    if not places:
        places = dict.fromkeys(f"{what}{place}" for what, stack in stacks if (place := _place(stack, own=False)))
    shown = [*places][:_SHOWN]
    more = len(places) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "") or "nothing that can be named"


def _awaited(coroutine: Any) -> Iterator[FrameType]:
    """Frames of a task, from the outside in: a coroutine, and what it awaits."""
    while coroutine is not None:
        for kind in ("cr", "gi", "ag"):
            if hasattr(coroutine, f"{kind}_frame"):
                frame = getattr(coroutine, f"{kind}_frame")
                if frame is not None:
                    yield frame
                coroutine = getattr(coroutine, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            return


def _outward(frame: FrameType | None) -> Iterable[FrameType]:
    """Frames of a thread, the innermost last."""
    found: list[FrameType] = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return reversed(found)


def _in_the_loop(stack: Iterable[FrameType]) -> list[FrameType]:
    """Only what the event loop calls, not what runs the loop."""
    frames = list(stack)
    loops = [at for at, frame in enumerate(frames) if frame.f_code.co_name == "_run_once"]
    return frames[loops[-1] + 1 :] if loops else []


def _place(stack: Iterable[FrameType], *, own: bool) -> str | None:
    """The innermost place in the program's `own` coroutines and functions, or in whatever is not Python's."""
    last = None
    for frame in stack:
        file = frame.f_code.co_filename
        library = file.startswith(_OURS) or "site-packages" in file
        if frame.f_code.co_name != "<module>" and not (file.startswith(_STANDARD_LIBRARY) or (own and library)):
            last = f"{frame.f_code.co_qualname} ({Path(file).name}:{frame.f_lineno})"
    return last
