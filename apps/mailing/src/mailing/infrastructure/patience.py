"""How long a mail server is waited for, and how many conversations may be slow at a time."""

import asyncio
from collections.abc import Awaitable
from dataclasses import astuple, dataclass

__all__ = ["Conversation", "Limits", "Patience"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds until a server has to have answered, by phase: the least of RFC 5321 4.5.3.2.

    `opening_s`: connection, TLS, greeting, EHLO and login together. `taken_s`: from the end of the mail to the answer. A
    client that gives up earlier there sends a mail again that the server has taken. `block_s`: sending; a mail of ours is
    one block.
    """

    opening_s: float = 300.0
    mail_s: float = 300.0
    recipient_s: float = 300.0
    data_s: float = 120.0
    block_s: float = 180.0
    taken_s: float = 600.0

    @property
    def total_s(self) -> float:
        """What a conversation takes at most."""
        return sum(astuple(self))


class Conversation:
    """How far a conversation with the mail server has come."""

    def __init__(self) -> None:
        self.about_recipient = False
        """From the recipient on, what goes wrong is about this recipient or this mail."""
        self.handed_over = False
        """The server may have the mail."""
        self.given_up = False

    def before_handing_over(self) -> None:
        """TimeoutError if the conversation has just been given up: then the mail must not leave any more."""
        if self.given_up:
            raise TimeoutError


class Patience:
    """Holds conversations; `places` of them may be slow (longer than `slow_after_s`) at a time.

    Cauce handles eight events of a service at a time. The limits of RFC 5321 let a server, or whoever can make it slow
    for some recipients, keep all eight for half an hour. So only `places` of them are given so long; one that
    becomes slow when there is no place ends with TimeoutError, as long as its mail has not been handed over, and the mail
    is tried again later. After that it is waited for in any case: giving up would send the mail twice.
    """

    def __init__(self, *, places: int, slow_after_s: float = 10.0) -> None:
        self._places = places
        self._slow_after_s = slow_after_s
        self.slow: set[Conversation] = set()
        """Those that are slow now."""

    async def hold(self, conversation: Conversation, talk: Awaitable[None]) -> None:
        """Hold a conversation. Raises what `talk` raises, and TimeoutError when it is given up."""
        async with asyncio.timeout(None) as end:
            timer = asyncio.get_running_loop().call_later(self._slow_after_s, self._became_slow, conversation, end)
            try:
                await talk
            finally:
                timer.cancel()
                self.slow.discard(conversation)

    def _became_slow(self, conversation: Conversation, end: asyncio.Timeout) -> None:
        if conversation.handed_over or len(self.slow) < self._places:
            self.slow.add(conversation)
        else:
            conversation.given_up = True
            end.reschedule(asyncio.get_running_loop().time())
