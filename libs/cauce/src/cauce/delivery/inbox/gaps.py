"""Numbers of a key that should have come by and did not: loss that nobody else would notice. Sans-I/O.

The producer counts the events of a key without holes, and a lane is read in order by one process; so whoever reads all
of it, the events it has no listener for among them, sees 6 follow 5. A jump is counted and said, and stops nothing: the
event is handled all the same, because what is missing may never come (a person discarded it at the producer).

Only a jump between two events that this very process read, while the lane was its own without a break, is one: what an
earlier owner read is not known here. So nothing is said that is not so, and a hole at a change of hands is not seen.
"""

from collections import OrderedDict

from cauce.events.envelope import Envelope

__all__ = ["Gaps"]

KEYS = 10_000
"""How many keys are remembered, those that were quiet for longest forgotten first."""


class Gaps:
    """What one process has read of every key."""

    def __init__(self, *, keys: int = KEYS) -> None:
        self._limit = keys
        self._last: OrderedDict[tuple[str, str], tuple[int, str, int]] = OrderedDict()

    def missing_before(self, envelope: Envelope, tenure: int) -> int:
        """How many numbers are missing between the last event of its key and this one, read in this tenure of its lane."""
        key, seq, incarnation = envelope.key, envelope.key_seq, envelope.incarnation
        if key is None or seq is None or incarnation is None:
            return 0
        place = (envelope.source, key)
        last_tenure, last_incarnation, last_seq = self._last.get(place, (tenure, incarnation, seq))
        unbroken = (last_tenure, last_incarnation) == (tenure, incarnation)
        self._last[place] = (tenure, incarnation, max(seq, last_seq) if unbroken else seq)
        self._last.move_to_end(place)
        if len(self._last) > self._limit:
            self._last.popitem(last=False)
        return max(0, seq - last_seq - 1) if unbroken else 0
