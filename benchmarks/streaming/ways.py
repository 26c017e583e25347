"""All ways by name; peers that are not installed are left out."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from streaming.with_cauce import Cauce
from streaming.with_faststream import FastStream, FastStreamBatch
from streaming.with_redis_py import RedisPy

__all__ = ["WAYS", "missing"]

WAYS: dict[str, Callable[[str], Any]] = {"redis-py": RedisPy, "cauce": Cauce}
if find_spec("faststream") is not None:
    WAYS.update({FastStream.name: FastStream, FastStreamBatch.name: FastStreamBatch})


def missing() -> Sequence[str]:
    """Peers that are not installed here."""
    return [] if "FastStream" in WAYS else ["faststream"]
