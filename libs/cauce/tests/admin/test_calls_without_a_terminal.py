"""What the commands do, called as functions: typed in, values out, nothing printed."""

import pytest
from cauce.admin import release, replay
from cauce.admin.finding import UnknownDeliveryError
from cauce.admin.selection import AmbiguousIdError, UnclearError
from cauce.admin.targets import find_targets
from cauce.admin.topics import StillWaitingError, forget_group
from cauce.ports.topics import Group, Inspectable, Topic
from cauce.stores.sql.dead_letters import DeadLetterFilter
from testsupport.shop_and_mail import Project

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"])


async def test_dead_letters_are_found_replayed_and_discarded(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    async with project.database("mail") as mail:
        await mail.dead("mail.welcome", "aa11" + "0" * 28, age=60)
        await mail.dead("mail.welcome", "aa22" + "0" * 28, age=30)
        await mail.dead("", "bb" + "0" * 30, age=10)
    targets = find_targets(["mail"])

    found = await replay.find_letters(targets, DeadLetterFilter())
    assert [one.short for one in found.by_service["mail"]] == ["bb000000", "aa220000", "aa110000"]
    with pytest.raises(AmbiguousIdError, match=r"^aa begins several: aa220000, aa110000. Write more of it\.$"):
        await replay.letters_of_ids(targets, ["aa"])
    with pytest.raises(UnknownDeliveryError, match=r"^No dead letter begins with 'cc'\."):
        await replay.letters_of_ids(targets, ["cc"])

    result = await replay.replay(found.by_service["mail"], why="the cause is gone")
    assert [one.short for one in result.done] == ["aa220000", "aa110000"]
    assert [(one.short, why) for one, why in result.refused] == [
        ("bb000000", "it belongs to no listener of this service; discard it")
    ]
    outcomes = await replay.wait_for_outcomes(result.done[:1], 0)
    assert list(outcomes.values()) == ["nobody has taken it yet"]

    discarded = await replay.discard(found.by_service["mail"], why="no longer wanted")
    again = await replay.discard(found.by_service["mail"][:1], why="twice")
    assert (len(discarded.done), len(again.done), len(again.gone)) == (3, 0, 1)
    assert (await replay.find_letters(targets, DeadLetterFilter())).by_service == {"mail": []}
    assert capsys.readouterr() == ("", "")


async def test_events_set_aside_are_found_released_and_discarded(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    async with project.database("shop") as shop:
        first = await shop.outgoing("shop.ticked", age=20, problem="too large")
        await shop.outgoing("shop.user-created", age=10, problem="too large")
    targets = find_targets(["shop"])

    chosen = await release.events_of_ids(targets, [first])
    rehearsed = await release.release(chosen, why=None, dry_run=True)
    released = await release.release(chosen, why=None)
    assert (rehearsed.dry_run, len(rehearsed.done), len(released.done)) == (True, 1, 1)
    left = (await release.find_set_aside(targets, name="shop.**")).everything
    assert [one.event.name for one in left] == ["shop.user-created"]
    assert len((await release.discard(left, why="too large for everybody")).done) == 1
    assert capsys.readouterr() == ("", "")


class _Broker:
    """Not Redis: as much of the port as is asked for here."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[str, str]] = []

    async def topics(self) -> list[Topic]:
        gone = Group(name="gone-ms", registered=True, lanes=16, lag=2, pending=1, oldest_waiting_s=5.0)
        return [
            Topic(name=name, streams=16, entries=9, oldest_s=9.0, newest_s=1.0, groups=(gone,))
            for name in ("shop-ms", "bank-ms")
        ]

    async def databases(self, group: str) -> dict[str, str]:
        return {"bank-ms": "gone-ms's"} if group == "gone-ms" else {}

    async def forget(self, topic: str, group: str) -> bool:
        self.forgotten.append((topic, group))
        return True


async def test_a_service_is_forgotten_on_a_broker_of_any_kind(dialect: str) -> None:
    fake = _Broker()
    broker: Inspectable = fake  # pyright: ignore[reportAssignmentType]  # the rest is not asked for

    with pytest.raises(UnclearError, match="Did you mean 'gone-ms'"):
        await forget_group(broker, "gone")
    with pytest.raises(StillWaitingError, match=r"^6 events in shop-ms, bank-ms still wait for gone-ms\.$"):
        await forget_group(broker, "gone-ms")
    rehearsed = await forget_group(broker, "gone-ms", dry_run=True)
    assert (rehearsed.topics, rehearsed.unheard, fake.forgotten) == (["bank-ms", "shop-ms"], 6, [])
    await forget_group(broker, "gone-ms", topic="bank-ms", force=True)
    assert fake.forgotten == [("bank-ms", "gone-ms")]
