"""The exam of these tests: with a bug planted, the scenario of its guarantee must fail, and say what is wrong.

A green run proves something only if a broken product would have turned it red. Each bug is a module of planted/, put
in place in the test's own processes; the scenario is the one that the guarantee's test plays without it. The long form
(`make prove`) sits all of the exam.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from cauce.dev.servers import ScratchDatabases, ValkeyServer
from testsupport.durable import scenarios
from testsupport.durable.harness import World
from testsupport.long_form import PROVE

_UNDER_WAY = ("are not acknowledged", "were never delivered", "still wait")


@dataclass(frozen=True, slots=True)
class _Exam:
    bug: str
    seen_as: str
    """What the failure says."""
    play: Callable[[World], object]


_consumers_killed = partial(scenarios.consumers_killed_around_their_commit, point="before_commit", lives=3)
_EXAMS = (
    _Exam("acknowledged_before_it_is_done", "lost", _consumers_killed),
    _Exam("no_parking", "was applied out of order", scenarios.a_failing_head),
    _Exam("no_crash_marks", "kills one process after the other", scenarios.deadly_events),
    _Exam("infrastructure_costs_attempts", "innocents are dead letters", scenarios.connections_ended_by_the_database),
    _Exam("cursor", "lost", scenarios.written_first_committed_last),
    _Exam("savepoint_events_kept", "ghosts", lambda world: scenarios.many_writers(world, events=120)),
    _Exam(
        "cancellation_swallowed",
        "drained within its grace",
        lambda world: scenarios.terminated_at_random(world, times=1, grace_s=2.0),
    ),
)
_LONGER_EXAMS = (
    _Exam("inbox_apart", "lost", _consumers_killed),
    _Exam("rows_claimed", "innocents are dead letters", scenarios.frozen_between_reading_and_sending),
    _Exam("group_at_the_end", "lost", lambda world: scenarios.deleted_streams(world, times=2)),
)


@pytest.mark.parametrize("exam", (*_EXAMS, *_LONGER_EXAMS) if PROVE else _EXAMS, ids=lambda exam: exam.bug)
def test_the_scenario_of_a_guarantee_finds_the_bug_that_breaks_it(
    make_world: Callable[..., World], valkey: ValkeyServer, postgres: ScratchDatabases, exam: _Exam
) -> None:
    world = make_world(
        broker=valkey.url, shop=postgres.database(), ledger=postgres.database(), planted=exam.bug, patience_s=4.0
    )

    with pytest.raises(AssertionError) as failure:
        exam.play(world)

    _is_found(exam.seen_as, str(failure.value))


@pytest.mark.parametrize("bug", ["tail_not_verified", "sent_rows_deleted"] if PROVE else ["tail_not_verified"])
def test_a_broker_that_comes_back_empty_finds_the_bug_that_would_leave_it_so(
    make_world: Callable[..., World], own_valkey: ValkeyServer, postgres: ScratchDatabases, bug: str
) -> None:
    world = make_world(
        broker=own_valkey.url, shop=postgres.database(), ledger=postgres.database(), planted=bug, patience_s=4.0
    )

    with pytest.raises(AssertionError) as failure:
        scenarios.an_emptied_broker(world, own_valkey)

    _is_found("lost", str(failure.value))


def _is_found(seen_as: str, failure: str) -> None:
    assert seen_as in failure
    if seen_as == "lost":
        assert not any(word in failure for word in _UNDER_WAY), "lost, and not merely late"
