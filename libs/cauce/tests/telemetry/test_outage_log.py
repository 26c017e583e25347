"""What a person reads while the broker is away, on a fake clock."""

import asyncio
import logging
import re

import pytest
from cauce.telemetry.connectivity import BrokerStatus, DatabaseStatus
from cauce.telemetry.outage_log import Kept, Line, OutageLog

REFUSED = "no Redis at 127.0.0.1:6379 (refused) → is it running? make infra"


class Story:
    """An outage log with a clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.log = OutageLog("mailing-ms")
        self.lines: list[str] = []

    def after(self, seconds: float) -> "Story":
        self.now += seconds
        self._keep(self.log.due(self.now))
        return self

    def down(self, reason: str = REFUSED, retry_in_s: float = 0.4) -> None:
        self._keep(self.log.down(self.now, reason, retry_in_s=retry_in_s))

    def up(self) -> None:
        self._keep(self.log.up(self.now))

    def lost(self, count: int) -> None:
        for number in range(count):
            self._keep(self.log.lost(self.now, f"event-{number}"))

    def stopped(self) -> None:
        self._keep(self.log.stopped(self.now))

    def _keep(self, lines: list[Line]) -> None:
        self.lines.extend(line.text for line in lines)


@pytest.fixture
def story() -> Story:
    return Story()


def test_an_outage_begins_with_one_line_that_says_what_to_do(story: Story) -> None:
    story.down()
    story.after(0.4).down()

    assert story.lines == [
        "mailing-ms: no Redis at 127.0.0.1:6379 (refused). Trying again in 0.4 s. → is it running? make infra"
    ]


def test_it_ends_with_one_line_that_says_how_long_and_what_was_lost(story: Story) -> None:
    story.down()
    story.lost(1)
    story.after(8).up()

    assert story.lines[-1] == "mailing-ms: back after 8 s, 1 event lost"


def test_nothing_is_logged_when_all_is_well(story: Story) -> None:
    story.up()
    story.after(1).up()
    story.after(100).stopped()

    assert story.lines == []


def test_five_lost_events_are_named_and_the_others_counted(story: Story) -> None:
    story.down()
    story.lost(40)
    story.after(8).up()

    assert story.lines[1:] == [
        "mailing-ms: event event-0 is lost: the broker did not take it",
        "mailing-ms: event event-1 is lost: the broker did not take it",
        "mailing-ms: event event-2 is lost: the broker did not take it",
        "mailing-ms: event event-3 is lost: the broker did not take it",
        "mailing-ms: event event-4 is lost: the broker did not take it. Further ones are only counted",
        "mailing-ms: back after 8 s, 40 events lost",
    ]


def test_an_outage_of_a_minute_with_many_losses_costs_few_lines(story: Story) -> None:
    for _ in range(60):
        story.down(retry_in_s=1)
        story.lost(20)
        story.after(1)
    story.down(retry_in_s=1)
    story.up()

    assert len(story.lines) < 20
    assert story.lines[-2] == (
        "mailing-ms: no Redis at 127.0.0.1:6379 (refused). 61 attempts in 60 s, 1200 events lost. "
        "Trying again in 1.0 s. → is it running? make infra"
    )
    assert story.lines[-1] == "mailing-ms: back after 60 s, 1200 events lost"


def test_a_long_outage_is_logged_once_a_minute(story: Story) -> None:
    for _ in range(600):
        story.down()
        story.after(1)

    assert len(story.lines) == 10


def test_a_new_reason_is_logged_but_not_at_every_change(story: Story) -> None:
    refused, loading = "no Redis at h:1 (refused)", "Redis at h:1 is still loading its data"
    for number in range(60):
        story.down(reason=loading if number % 2 else refused)
        story.after(1)

    assert story.lines[1].startswith(f"mailing-ms: {loading}. 12 attempts in 11 s.")
    assert len(story.lines) < 10


def test_a_broker_that_comes_and_goes_all_the_time_costs_few_lines(story: Story) -> None:
    for _ in range(300):
        story.down(reason="no Redis at h:1 (it closed the connection)")
        story.lost(1)
        story.after(0.1).up()
        story.after(0.1)

    assert len(story.lines) < 20
    story.after(60).down()
    assert story.lines[-1].startswith("mailing-ms: no Redis at 127.0.0.1:6379 (refused). 297 short outages before.")


def test_an_outage_that_was_too_much_to_announce_is_announced_once_it_lasts(story: Story) -> None:
    for _ in range(4):
        story.down()
        story.after(1).up()
    told = len(story.lines)
    story.down()
    story.after(30).down()
    assert len(story.lines) == told
    story.after(30).down()

    assert len(story.lines) == told + 1
    assert "3 attempts in 60 s" in story.lines[-1]


def test_losses_while_the_broker_seems_to_be_there_are_summed_up_too(story: Story) -> None:
    story.lost(30)
    story.after(1)
    assert len(story.lines) == 5
    story.after(60)

    assert story.lines[-1] == "mailing-ms: 30 events lost"
    story.after(60)
    assert len(story.lines) == 6


def test_stopping_in_an_outage_says_how_it_stood(story: Story) -> None:
    story.down()
    story.lost(7)
    story.after(30).stopped()
    story.stopped()

    assert story.lines[-1] == "mailing-ms: stopped; the broker has been away for 30 s, 7 events lost"


async def test_a_service_knows_the_reason_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    outage = BrokerStatus("mailing-ms", logging.getLogger("cauce.service"))
    assert outage.reason == "not subscribed yet"
    await outage.first_report(limit_s=0.01)

    outage.down(REFUSED, retry_in_s=0.1)
    await outage.first_report(limit_s=60)
    assert outage.reason == "no Redis at 127.0.0.1:6379 (refused)"

    outage.up()
    assert outage.reason is None
    assert [record.levelname for record in caplog.records if record.name == "cauce.service"][:1] == ["WARNING"]


def test_a_minute_without_the_database_is_few_lines_whatever_needs_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    trouble = DatabaseStatus("stock", logging.getLogger("test"), clock=lambda: now)

    with caplog.at_level(logging.INFO):
        while now < 60.0:
            for error in (OSError("refused"), TimeoutError()):
                for _ in range(10):
                    trouble.down(error, retry_in_s=0.5)
            now += 0.5
        trouble.up()
        trouble.up()

    said = [record.getMessage() for record in caplog.records]
    assert len(said) < 20
    assert said[0] == (
        "stock: database: it does not serve us (OSError); nothing is lost. Trying again in 0.5 s. → cauce doctor"
    )
    assert said[-1] == "stock: database: back after 60 s"


async def test_where_events_are_kept_an_outage_says_how_many_and_a_minute_of_it_is_a_few_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As over Streams: two loops meet the same outage, each at its own pace and in its own words."""
    now, sent = 1000.0, 7

    async def kept() -> Kept:
        return Kept(waiting=int(now - 1000.0), oldest_s=now - 1000.0 if now > 1000.0 else None)

    log = logging.getLogger("cauce.service")
    outage = BrokerStatus("accounts-ms", log, clock=lambda: now, kept=kept, sent=lambda: sent)
    relay, subscription = outage.part("relay"), outage.part("subscription")
    with caplog.at_level(logging.INFO):
        running = asyncio.get_running_loop().create_task(outage.run())
        for second in range(61):
            now = 1000.0 + second
            subscription.down("no answer from Redis within 2.5 s → cauce doctor", retry_in_s=1.0)
            if second % 2 == 0:
                relay.down(REFUSED, retry_in_s=2.0)
            await outage.first_report(limit_s=60)
            await _said()
        subscription.up()
        relay.up()
        sent += 60
        now += 1
        await _said()
        running.cancel()
        await asyncio.wait([running])

    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        "accounts-ms: no answer from Redis within 2.5 s. Events are kept in the outbox: none waiting. "
        "Trying again in 1.0 s. → cauce doctor"
    )
    assert "Events are kept in the outbox: 10 waiting, oldest 10 s." in lines[1]
    assert re.fullmatch(r"accounts-ms: back after 6\d s, \d+ events still to be sent", lines[-1])
    assert len(lines) < 10


async def test_an_outage_is_logged_even_if_the_database_cannot_be_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def kept() -> Kept:
        raise OSError("no database")

    outage = BrokerStatus("accounts-ms", logging.getLogger("cauce.service"), kept=kept)
    with caplog.at_level(logging.INFO):
        running = asyncio.get_running_loop().create_task(outage.run())
        outage.down(REFUSED, retry_in_s=0.4)
        await outage.first_report(limit_s=60)
        running.cancel()
        await asyncio.wait([running])

    assert next(record.getMessage() for record in caplog.records) == (
        "accounts-ms: no Redis at 127.0.0.1:6379 (refused). Events are kept in the outbox. Trying again in 0.4 s. "
        "→ is it running? make infra"
    )


async def _said() -> None:
    """The loop that writes what there is to say has had its turn, and the outbox has answered it."""
    for _ in range(10):
        await asyncio.sleep(0)
