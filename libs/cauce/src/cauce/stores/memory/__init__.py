"""A store in memory: the same promises, as long as the process lives.

`store` begins transactions; `tables` are their rows; `writing` and `inbox` are the user's side of a transaction,
`message_store` is the relay's.
"""

from cauce.stores.memory.store import MemoryStore

__all__ = ["MemoryStore"]
