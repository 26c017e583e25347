"""By pymitter's event emitters, by name or by wildcard."""

from rounds import Counter, Way

from dispatching.counting import EVENT, NAME, async_counting_listeners, counting_listeners

__all__ = ["awaited", "plain"]


def plain(label: str, count: int, *, heard: str, wildcard: bool) -> Way:
    from pymitter import EventEmitter

    counter, emitter = Counter(), EventEmitter(wildcard=wildcard)
    for listener in counting_listeners(counter, count):
        emitter.on(heard, listener)

    def run(times: int) -> None:
        for _ in range(times):
            emitter.emit(NAME, EVENT)

    return Way(name=label, run=run, counter=counter, calls_each=count)


def awaited(label: str, count: int, *, heard: str, wildcard: bool) -> Way:
    from pymitter import EventEmitter

    counter, emitter = Counter(), EventEmitter(wildcard=wildcard)
    for listener in async_counting_listeners(counter, count):
        emitter.on(heard, listener)

    async def run(times: int) -> None:
        for _ in range(times):
            await emitter.emit_async(NAME, EVENT)

    return Way(name=label, run=run, counter=counter, calls_each=count)
