"""Things made for one transaction or call that have an end: entered when they are made, left in the opposite order."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, cast

__all__ = ["Opened"]


class Opened(AsyncExitStack):
    """What is open. Leaving it swallows no error: a listener that failed has failed."""

    is_empty = True
    """Whether nothing is open."""

    async def enter(self, made: object) -> object:
        """Return the thing that a factory made: awaited if it is a coroutine, entered if it was written with `yield`.

        Entered are generators, and what `contextmanager` and `asynccontextmanager` make of them. Other context managers
        are handed over as they are: a client or a pool is one too, and others may share it.
        """
        if inspect.isasyncgen(made):
            made = _of_async_generator(cast("AsyncGenerator[object]", made))
        elif inspect.isgenerator(made) and not inspect.isawaitable(made):
            made = _of_generator(cast("Generator[object]", made))
        if isinstance(made, _AsyncBlock):
            self.is_empty = False
            return await self.enter_async_context(cast("Any", made))
        if isinstance(made, _Block):
            self.is_empty = False
            return self.enter_context(cast("Any", made))
        if inspect.isawaitable(made):
            return await self.enter(await cast("Awaitable[object]", made))
        return made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        self.is_empty = True
        await super().__aexit__(kind, error, trace)
        return False


def _of_async_generator(made: AsyncGenerator[object]) -> object:
    return asynccontextmanager(lambda: made)()


def _of_generator(made: Generator[object]) -> object:
    return contextmanager(lambda: made)()


async def _async_nothing() -> AsyncGenerator[None]:
    yield


def _nothing() -> Generator[None]:
    yield


# contextlib does not name these classes in public.
_AsyncBlock = type(asynccontextmanager(_async_nothing)())
_Block = type(contextmanager(_nothing)())
