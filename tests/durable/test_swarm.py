"""The swarm: in whatever way a listener misbehaves, its event ends within its attempts and harms no other.

Every example plays each of fifty ways, in another order and in other company. The short form has one example for every
kind of listener, the long one (`make prove`) many more. With a bug planted, the swarm must fail, and say what is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cauce.dev.servers import ScratchDatabases, ValkeyServer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from testsupport.durable import swarm
from testsupport.durable.harness import World
from testsupport.durable.swarm_listener import KINDS
from testsupport.long_form import PROVE

_SHORT = [
    ("plain", "postgresql", 1, True),
    ("plain", "sqlite", 2, False),
    ("returned", "sqlite", 1, False),
    ("shared", "postgresql", 2, False),
    ("durable", "postgresql", 2, False),
    ("durable", "sqlite", 1, False),
    ("blocking", "postgresql", 1, False),
    ("at-least-once", "sqlite", 1, False),
    ("at-most-once", "postgresql", 2, False),
]
_LONG = [
    (kind, dialect, processes, kind in ("plain", "durable") and processes == 2)
    for kind in KINDS
    for dialect in ("postgresql", "sqlite")
    for processes in (1, 2)
]


@pytest.fixture
def make_database(postgres: ScratchDatabases, tmp_path: Path) -> Callable[[str], str]:
    made: list[str] = []

    def make(dialect: str) -> str:
        made.append(dialect)
        return postgres.database() if dialect == "postgresql" else f"sqlite+aiosqlite:///{tmp_path}/{len(made)}.db"

    return make


@pytest.mark.parametrize(("kind", "dialect", "processes", "deadly"), _LONG if PROVE else _SHORT)
@settings(
    max_examples=3 if PROVE else 1,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=(HealthCheck.function_scoped_fixture, HealthCheck.too_slow),
)
@given(data=st.data())
def test_whatever_a_listener_does_wrong_its_event_ends_and_no_other_is_harmed(
    data: st.DataObject,
    make_world: Callable[..., World],
    valkey: ValkeyServer,
    make_database: Callable[[str], str],
    kind: str,
    dialect: str,
    processes: int,
    deadly: bool,
) -> None:
    valkey.flush()
    shop = make_database(dialect)
    ledger = shop if kind == "durable" else make_database(dialect)
    world = make_world(broker=valkey.url, shop=shop, ledger=ledger)
    plan = data.draw(swarm.plans(kind=kind, dialect=dialect, deadly=deadly))

    try:
        swarm.play(world, plan, processes=processes)
    finally:
        world.close()


@dataclass(frozen=True, slots=True)
class _Exam:
    bug: str
    ways: tuple[str, ...]
    seen_as: str
    """What the failure says."""
    kind: str = "plain"


_EXAMS = (
    _Exam("commit_taken_at_its_word", ("swallows-a-conflict",), "lost"),
    _Exam("transaction_ended_by_its_listener", ("commits-and-raises",), "no dead letter"),
    _Exam("coroutine_dropped", ("",), "lost", kind="returned"),
    _Exam("text_as_it_is", ("nul",), "no dead letter"),
    _Exam("programs_may_be_ended", ("exits-politely",), "no dead letter"),
    _Exam("every_error_is_the_databases", ("no-such-table",), "no dead letter"),
    _Exam("groups_not_opened", ("group-rejects",), "is dead: exhausted"),
)


@pytest.mark.parametrize("exam", _EXAMS, ids=lambda exam: exam.bug)
def test_the_swarm_finds_the_bug_that_breaks_its_promise(
    make_world: Callable[..., World], valkey: ValkeyServer, postgres: ScratchDatabases, exam: _Exam
) -> None:
    world = make_world(
        broker=valkey.url, shop=postgres.database(), ledger=postgres.database(), planted=exam.bug, patience_s=3.0
    )
    plan = swarm.Plan(exam.kind, "postgresql", [(f"k{no}", way) for no, way in enumerate((*exam.ways, "", ""))])

    with pytest.raises(AssertionError) as failure:
        swarm.play(world, plan, processes=1)

    assert exam.seen_as in str(failure.value)
