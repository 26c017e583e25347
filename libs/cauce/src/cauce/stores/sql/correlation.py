"""The number by which rows of a correlation are found: 64 bits of a hash, in an index a quarter of the size of its text."""

from hashlib import blake2b

from cauce.events.envelope import Envelope

__all__ = ["correlation_hash"]


def correlation_hash(envelope: Envelope) -> int:
    """Several correlations may have the same: whoever finds a row reads its message."""
    digest = blake2b(envelope.correlation_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
