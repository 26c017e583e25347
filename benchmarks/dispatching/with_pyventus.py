"""By pyventus, without its debug mode."""

from functools import partial

from rounds import Counter, Way

from dispatching.counting import EVENT, NAME, async_counting_listeners, in_bursts

__all__ = ["awaited"]


def awaited(count: int) -> Way:
    from pyventus.events import AsyncIOEventEmitter, EventLinker

    class Linker(EventLinker):  # pyright: ignore[reportUntypedBaseClass]  # a peer, not installed for the checks
        """A registry of this contender's own; the library's is global."""

    counter, emitter = Counter(), AsyncIOEventEmitter(event_linker=Linker, debug=False)
    for listener in async_counting_listeners(counter, count):
        Linker.subscribe(NAME, event_callback=listener)
    run = in_bursts(partial(emitter.emit, NAME, EVENT), counter, count)
    return Way(name="pyventus", run=run, counter=counter, calls_each=count)
