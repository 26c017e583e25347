"""A group that is missing is made again at `$`: after whatever is in the stream by then."""

from typing import Any

from cauce.transports.redis.pipeline import Command, RedisPipeline


def plant() -> None:
    ask = RedisPipeline.ask

    def at_the_end(command: Command) -> Command:
        return (*command[:4], "$", *command[5:]) if command[:2] == ("XGROUP", "CREATE") else command

    async def asked(self: RedisPipeline, *commands: Command, patience_s: float = 0.0) -> list[Any]:
        return await ask(self, *map(at_the_end, commands), patience_s=patience_s)

    RedisPipeline.ask = asked
