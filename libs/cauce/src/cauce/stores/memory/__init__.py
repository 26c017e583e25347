"""A store in memory: the same promises, as long as the process lives."""

from cauce.stores.memory.store import MemoryStore

__all__ = ["MemoryStore"]
