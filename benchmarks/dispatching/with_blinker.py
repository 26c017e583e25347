"""By blinker's signals, with strong references."""

from rounds import Counter, Way

from dispatching.counting import EVENT, async_counting_listeners, counting_listeners

__all__ = ["awaited", "plain"]


def plain(count: int) -> Way:
    from blinker import Signal

    counter, signal = Counter(), Signal()
    for listener in counting_listeners(counter, count):
        signal.connect(listener, weak=False)

    def run(times: int) -> None:
        for _ in range(times):
            signal.send(EVENT)

    return Way(name="blinker", run=run, counter=counter, calls_each=count)


def awaited(count: int) -> Way:
    from blinker import Signal

    counter, signal = Counter(), Signal()
    for listener in async_counting_listeners(counter, count):
        signal.connect(listener, weak=False)

    async def run(times: int) -> None:
        for _ in range(times):
            await signal.send_async(EVENT)

    return Way(name="blinker send_async", run=run, counter=counter, calls_each=count)
