"""A number of a key that did not come by: counted where it is certain, and silent where it is not."""

from datetime import UTC, datetime

from cauce.delivery.inbox.gaps import Gaps
from cauce.events.envelope import Envelope
from msgspec import Raw

NOW, LATER = 1, 2


def event(
    seq: int | None, *, key: str | None = "k1", source: str = "shop", incarnation: str | None = "db-1"
) -> Envelope:
    return Envelope(
        id=f"{key}-{seq}",
        source=source,
        name="shop.counted",
        version=1,
        occurred_on=datetime(2026, 11, 25, tzinfo=UTC),
        payload=Raw(b"{}"),
        correlation_id="c",
        key=key,
        key_seq=seq,
        incarnation=incarnation,
    )


def test_numbers_that_follow_each_other_miss_nothing_and_a_jump_misses_what_lies_between() -> None:
    gaps = Gaps()
    assert [gaps.missing_before(event(seq), NOW) for seq in (4, 5, 6, 9, 10)] == [0, 0, 0, 2, 0]


def test_redelivered_and_resent_events_leave_no_gap() -> None:
    gaps = Gaps()
    assert [gaps.missing_before(event(seq), NOW) for seq in (1, 2, 3, 1, 2, 3, 4, 2, 5)] == [0] * 9


def test_every_key_of_every_source_is_counted_by_itself() -> None:
    gaps = Gaps()
    seen = [
        event(1),
        event(7, key="k2"),
        event(3, source="mail"),
        event(2),
        event(8, key="k2"),
        event(5, source="mail"),
    ]
    assert [gaps.missing_before(one, NOW) for one in seen] == [0, 0, 0, 0, 0, 1]


def test_what_another_owner_of_the_lane_may_have_read_is_not_missed() -> None:
    gaps = Gaps()
    gaps.missing_before(event(1), NOW)
    assert gaps.missing_before(event(9), LATER) == 0
    assert gaps.missing_before(event(11), LATER) == 1


def test_a_recreated_database_restarts_its_sequence_numbers() -> None:
    gaps = Gaps()
    gaps.missing_before(event(50), NOW)
    assert gaps.missing_before(event(1, incarnation="db-2"), NOW) == 0
    assert gaps.missing_before(event(3, incarnation="db-2"), NOW) == 1


def test_events_without_key_or_number_are_not_counted() -> None:
    gaps = Gaps()
    for one in (event(None), event(1, key=None), event(1, incarnation=None)):
        assert gaps.missing_before(one, NOW) == 0


def test_only_so_many_keys_are_remembered() -> None:
    gaps = Gaps(keys=2)
    for key in ("a", "b", "a", "c"):  # b is forgotten
        gaps.missing_before(event(1, key=key), NOW)
    assert gaps.missing_before(event(3, key="b"), NOW) == 0
    assert gaps.missing_before(event(3, key="c"), NOW) == 1
