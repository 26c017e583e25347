"""By a loop over the listeners: what no library can be faster than."""

from rounds import Counter, Way

from dispatching.counting import EVENT, async_counting_listeners, counting_listeners

__all__ = ["awaited", "plain"]


def plain(count: int) -> Way:
    counter = Counter()
    listeners = counting_listeners(counter, count)

    def run(times: int) -> None:
        for _ in range(times):
            for listener in listeners:
                listener(EVENT)

    return Way(name="bare loop", run=run, counter=counter, calls_each=count)


def awaited(count: int) -> Way:
    counter = Counter()
    listeners = async_counting_listeners(counter, count)

    async def run(times: int) -> None:
        for _ in range(times):
            for listener in listeners:
                await listener(EVENT)

    return Way(name="bare await loop", run=run, counter=counter, calls_each=count)
