"""By bubus, without its log and with a history of one."""

import logging

from rounds import Counter, Way

from dispatching.counting import async_counting_listeners

__all__ = ["awaited"]


def awaited(count: int) -> Way:
    logging.getLogger("bubus").setLevel(logging.CRITICAL)
    from bubus import BaseEvent, EventBus

    class PlaylistChanged(BaseEvent):  # pyright: ignore[reportUntypedBaseClass]  # a peer, not installed for the checks
        playlist_id: str
        title: str

    counter, bus = Counter(), EventBus(name=f"Bench{count}", max_history_size=1)
    for at, listener in enumerate(async_counting_listeners(counter, count)):
        listener.__name__ = f"listener_{at}"
        bus.on(PlaylistChanged, listener)

    async def run(times: int) -> None:
        for _ in range(times):
            # Its events carry their own results, so there must be a new one each time.
            await bus.dispatch(PlaylistChanged(playlist_id="p-1", title="Songs for the road"))

    async def close() -> None:
        await bus.stop(clear=True)

    return Way(name="bubus", run=run, counter=counter, calls_each=count, close=close)
