"""A listening socket that holds a bounded number of connections, and closes the others at once."""

import asyncio
import errno
import socket
from collections.abc import Callable, Collection

from cauce.hosting.flood_log import FloodLog

__all__ = ["Door"]

_AT_ONCE = 64
"""Connections taken in one turn of the loop: the others of the loop have their turn in between."""
_PAUSE_S = 0.5
_TCP = frozenset({socket.AF_INET, socket.AF_INET6})
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_GONE_AGAIN = (BlockingIOError, InterruptedError, ConnectionAbortedError)


class _Connection(socket.socket):
    """An accepted connection that has a place until it is closed, whatever protocol it has by then."""

    def __init__(self, accepted: socket.socket, places: set[int]) -> None:
        family, kind, protocol = accepted.family, accepted.type, accepted.proto
        super().__init__(family, kind, protocol, fileno=accepted.detach())
        self._places = places
        places.add(id(self))

    def close(self) -> None:
        self._places.discard(id(self))
        super().close()


class Door:
    """Accepts for one event loop. asyncio's own server has no bound on connections; where descriptors run out it tries,
    and logs a traceback, hundreds of times a second."""

    def __init__(
        self, listening: socket.socket, *, connections: int, running: Collection[object], floods: FloodLog
    ) -> None:
        """`running` are the requests that have not ended: one whose client has hung up counts as a connection."""
        self._listening = listening
        self._running = running
        self._connections = connections
        self._floods = floods
        self._places: set[int] = set()
        self._beginning: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def open(self, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        """Accept from now on. Connections that came before have waited in the system's queue."""
        self._make_protocol = make_protocol
        self._listening.setblocking(False)
        self._watch()

    async def close(self) -> None:
        """Refuse new connections; those that are open stay. All of them have their protocol when this returns."""
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._listening)
        self._listening.close()
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _address = self._listening.accept()
            except _GONE_AGAIN:
                return
            except OSError as error:
                self._wait_a_moment(error)
                return
            if self._is_full():
                accepted.close()
                continue
            task = asyncio.get_running_loop().create_task(self._begin(_Connection(accepted, self._places)))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def _is_full(self) -> bool:
        """Whether there is no place, which is noted. Who hangs up leaves an endpoint running, and could come back for
        another one without an end."""
        if len(self._places) >= self._connections:
            why = f"{self._connections} are open"
        elif len(self._running) >= self._connections:
            why = f"{self._connections} requests have not ended, those included whose clients have hung up"
        else:
            return False
        self._floods.note(f"a connection was closed at once, because {why} (HttpLimits.connections)")
        return True

    async def _begin(self, connection: _Connection) -> None:
        connection.setblocking(False)
        try:
            if connection.family in _TCP:
                # asyncio does so only where the listening socket names TCP, and that of socket.create_server() does not.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)
        except OSError:  # it has gone before it began
            connection.close()

    def _wait_a_moment(self, error: OSError) -> None:
        """The system stays ready to give what we cannot take: without a pause the loop would do nothing else."""
        if error.errno in _OUT_OF_RESOURCES:
            self._floods.note("no connection can be accepted, because file descriptors or memory are used up")
        else:
            self._floods.note(f"a connection could not be accepted ({type(error).__name__}, errno {error.errno})")
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        self._pause = loop.call_later(_PAUSE_S, self._watch)
