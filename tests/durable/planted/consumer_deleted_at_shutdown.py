"""A consumer that stops deletes itself from the group, and with it what it was given and has not begun."""

from cauce.transports.redis_pipeline import Command
from cauce.transports.redis_stream_group import GroupReading


def plant() -> None:
    run = GroupReading.run

    async def run_and_delete(self: GroupReading) -> None:
        try:
            await run(self)
        finally:
            deleting: list[Command] = [
                ("XGROUP", "DELCONSUMER", stream.key, self.group, "lane") for stream in self._streams.values()
            ]
            await self._commands.ask(*deleting)

    GroupReading.run = run_and_delete
