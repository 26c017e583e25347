"""What may be reported again and again: few lines, a count of the others, and a memory that does not grow."""

from cauce.telemetry.once_a_while import OnceAWhile


def test_the_first_is_reported_and_the_same_again_is_no_news() -> None:
    reports = OnceAWhile()

    assert [reports.due("shop", "first", now=at) for at in (0, 1, 1_000)] == [0, None, None]


def test_what_changes_all_the_time_is_reported_once_a_minute_with_a_count() -> None:
    reports = OnceAWhile(every_s=60)

    found = [reports.due("shop", f"change {second}", now=second) for second in range(150)]

    assert {second: one for second, one in enumerate(found) if one is not None} == {0: 0, 60: 59, 120: 59}


def test_every_subject_is_reported_by_itself_and_only_the_latest_are_remembered() -> None:
    reports = OnceAWhile(most=100)

    assert [reports.due(number, "change", now=0) for number in range(10_000)] == [0] * 10_000
    assert len(reports) == 100
    assert reports.due(9_999, "change", now=1) is None
