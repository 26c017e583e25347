"""Missing sequence numbers of a key: a loss that nothing else would detect. Sans-I/O.

The producer numbers the events of a key without gaps, and one process reads a lane in order, events without a listener
included: it sees 6 follow 5. A gap is counted and logged, and stops nothing: the event is handled all the same, because
the missing one may never come (an operator discarded it at the producer).

Only a gap between two events that this process read, while it owned the lane without a break, is reported: what an
earlier owner read is not known here. So no report is false, and a gap at a change of owners is not detected.
"""

from collections import OrderedDict

from cauce.events.envelope import Envelope
from cauce.ports.inbox import FURTHEST

__all__ = ["Gaps"]

KEYS = 10_000
"""How many keys are remembered; the least recently seen is forgotten first."""


class Gaps:
    """The last sequence number that one process has read of every key."""

    def __init__(self, *, keys: int = KEYS) -> None:
        self._limit = keys
        self._last: OrderedDict[tuple[str, str], tuple[int, str, int]] = OrderedDict()

    def missing_before(self, envelope: Envelope, tenure: int) -> int:
        """Count the numbers missing between this event and the last of its key, read in the same tenure of its lane."""
        key, seq, incarnation = envelope.key, envelope.key_seq, envelope.incarnation
        if key is None or seq is None or incarnation is None:
            return 0
        place = (envelope.source, key)
        last_tenure, last_incarnation, last_seq = self._last.get(place, (tenure, incarnation, seq))
        unbroken = (last_tenure, last_incarnation) == (tenure, incarnation)
        if unbroken and seq > last_seq + FURTHEST:
            return 0  # impossible: the decision table says so
        keeps = unbroken and last_seq <= seq + FURTHEST  # otherwise the last one was impossible
        self._last[place] = (tenure, incarnation, max(seq, last_seq) if keeps else seq)
        self._last.move_to_end(place)
        if len(self._last) > self._limit:
            self._last.popitem(last=False)
        return max(0, seq - last_seq - 1) if unbroken else 0
