"""What a plain function returns is not awaited."""

from unittest.mock import patch

from cauce.listeners import calling


def plant() -> None:
    async def finish(result: object, who: str) -> None:
        pass

    patch.object(calling, "finish", finish).start()
