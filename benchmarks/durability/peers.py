"""Which peers are installed, and the outbox table that faststream-outbox wants."""

from importlib.util import find_spec
from typing import Any

from sqlalchemy import MetaData

__all__ = ["missing", "outbox_table"]

PEERS = ("faststream", "faststream_outbox")


def missing() -> list[str]:
    return [name for name in PEERS if find_spec(name) is None]


def outbox_table() -> Any:
    from faststream_outbox import make_outbox_table

    return make_outbox_table(MetaData(), table_name="peer_outbox")
