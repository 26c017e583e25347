"""By pyee's event emitters."""

from functools import partial

from rounds import Counter, Way

from dispatching.counting import EVENT, NAME, async_counting_listeners, counting_listeners, in_bursts

__all__ = ["awaited", "plain"]


def plain(count: int) -> Way:
    from pyee import EventEmitter

    counter, emitter = Counter(), EventEmitter()
    for listener in counting_listeners(counter, count):
        emitter.add_listener(NAME, listener)

    def run(times: int) -> None:
        for _ in range(times):
            emitter.emit(NAME, EVENT)

    return Way(name="pyee", run=run, counter=counter, calls_each=count)


def awaited(count: int) -> Way:
    from pyee.asyncio import AsyncIOEventEmitter

    counter, emitter = Counter(), AsyncIOEventEmitter()
    for listener in async_counting_listeners(counter, count):
        emitter.add_listener(NAME, listener)
    run = in_bursts(partial(emitter.emit, NAME, EVENT), counter, count)
    return Way(name="pyee AsyncIO", run=run, counter=counter, calls_each=count)
