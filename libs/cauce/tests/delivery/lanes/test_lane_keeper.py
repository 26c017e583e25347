"""Who owns which lane, played without a clock and without a database: any number of processes, any order of what happens."""

import random
from collections.abc import Sequence

import pytest
from cauce.delivery.lanes.lane_keeper import LaneKeeper
from cauce.ports.lanes import LANES, Epoch, Lane, LaneRow, LanesSeen, MemberId

LEASE_S = 10.0


class Database:
    """The two tables, and the only clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lanes: dict[Lane, tuple[MemberId | None, Epoch]] = {Lane(one): (None, Epoch(0)) for one in range(LANES)}
        self.leases: dict[MemberId, float] = {}

    def rows(self) -> Sequence[LaneRow]:
        return [
            LaneRow(lane, owner, epoch, self.leases.get(owner, self.now) - self.now if owner else 0.0)
            for lane, (owner, epoch) in self.lanes.items()
        ]

    def beat(self, keeper: LaneKeeper) -> None:
        self.leases[keeper.me] = self.now + LEASE_S
        keeper.renewed(requested_at=self.now, now=self.now)
        members = [one for one, until in self.leases.items() if until >= self.now]
        beat = keeper.beat(LanesSeen(self.rows(), members=members, clock=self.now), now=self.now)
        for lane, seen in beat.take.items():
            if self.lanes[lane][1] == seen:
                self.lanes[lane] = (keeper.me, Epoch(seen + 1))
                keeper.took(lane, Epoch(seen + 1))
        for lane in beat.give_back:
            self.lanes[lane] = (None, self.lanes[lane][1])
        keeper.gave_back(beat.give_back)


def keepers(count: int) -> list[LaneKeeper]:
    return [LaneKeeper(MemberId(f"host:{number}"), lease_s=LEASE_S) for number in range(count)]


def shares(database: Database, those: Sequence[LaneKeeper]) -> list[int]:
    return sorted(len(one.owned(database.now)) for one in those)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 15, 16, 17, 20])
def test_lanes_are_shared_out_evenly_whatever_the_number_of_processes(count: int) -> None:
    database, those = Database(), keepers(count)
    for _ in range(4):
        for one in those:
            database.beat(one)
        database.now += 3.0

    found = shares(database, those)
    assert sum(found) == LANES
    assert found[-1] - found[0] <= 1


def test_a_new_process_gets_its_share_and_a_dead_one_is_replaced_when_its_lease_ends() -> None:
    database, (one, two, three) = Database(), keepers(3)
    for keeper in (one, two, one, two, three, one, two, three):
        database.beat(keeper)
    assert shares(database, [one, two, three]) == [5, 5, 6]

    database.now += LEASE_S - 1  # `three` has died
    for keeper in (one, two):
        database.beat(keeper)
    assert shares(database, [one, two]) != [8, 8]
    database.now += 2
    for keeper in (one, two, one, two):
        database.beat(keeper)
    assert shares(database, [one, two]) == [8, 8]


def test_a_lease_that_ran_out_and_was_renewed_gives_the_lanes_back_under_other_epochs() -> None:
    database, (one,) = Database(), keepers(1)
    database.beat(one)
    before = dict(one.owned(database.now))

    database.now += LEASE_S
    assert not one.owned(database.now)
    database.beat(one)

    after = one.owned(database.now)
    assert after.keys() == before.keys()
    assert all(after[lane] == before[lane] + 1 for lane in before)


def test_what_was_taken_without_our_knowing_is_taken_again_or_given_back() -> None:
    database, (one, two) = Database(), keepers(2)
    database.leases[two.me] = LEASE_S
    database.lanes = dict.fromkeys(database.lanes, (one.me, Epoch(4)))  # it committed, and we were told nothing

    database.beat(one)
    database.beat(two)

    assert shares(database, [one, two]) == [8, 8]
    assert set(one.owned(database.now).values()) == {Epoch(5)}


@pytest.mark.parametrize("seed", range(60))
def test_whatever_processes_do_no_lane_has_two_owners_and_in_the_end_each_has_one(seed: int) -> None:
    chance = random.Random(seed)
    database, those = Database(), keepers(6)
    awake = set(those)
    for _ in range(300):
        database.now += chance.uniform(0.0, 4.0)
        one = chance.choice(those)
        if chance.random() < 0.15:
            awake ^= {one}  # falls asleep, with all it knows, or wakes
        if one in awake:
            database.beat(one)
        owned = [lane for keeper in those for lane in keeper.owned(database.now)]
        assert len(owned) == len(set(owned)), "two own it"
        for keeper in those:
            for lane, epoch in keeper.owned(database.now).items():
                assert database.lanes[lane] == (keeper.me, epoch), "what it believes is so"

    alive = [one for one in those if one in awake] or those[:1]
    for _ in range(6):
        database.now += 3.0
        for one in alive:
            database.beat(one)
    found = shares(database, alive)
    assert sum(found) == LANES
    assert found[-1] - found[0] <= 1
