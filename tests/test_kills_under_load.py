"""Two instances of each service under load, and every process, Valkey and PostgreSQL among them, killed at random.

Then everything is counted where nothing hides a repeat: mails at the SMTP sink, events on the topic, names in the
catalogs. Twenty seconds of kills; KILLS_FOR_S=600 for a long run, KILLS_SEED to play one again (the same victims and
pauses; the schedule of the machine is its own).
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import pytest
from cauce.ports.lanes import LANES
from testsupport.waiting import eventually
from testsupport.whole_system import SERVICES, LiveSystem, live_system

KILLS_FOR_S = float(os.environ.get("KILLS_FOR_S", "20"))
SEED = int(os.environ.get("KILLS_SEED", str(time.time_ns() % 1_000_000)))
WRITERS = 6
SENDS_AT_ONCE = 8
"""How many mails one process of mailing-ms has under way at most."""
RECOVERY_S = 90.0
CREATED = "com.clonespotify.accounts.users.integration.user-created"
UPDATED = "com.clonespotify.accounts.users.integration.user-profile-updated"


@pytest.fixture
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    with live_system(tmp_path_factory.mktemp("kills"), twice=SERVICES, EVENTS_TRANSPORT="redis-streams") as system:
        yield system


@dataclass
class Person:
    """A user as confirmed by accounts-ms: the last name is that of the last PUT that was answered 200."""

    id: str
    email: str
    name: str
    events: int = 1


@dataclass
class Writer:
    """Signs people up and renames them; what got no clear answer is repeated until it has one."""

    number: int
    doors: list[str]
    random: random.Random
    people: list[Person] = field(default_factory=list[Person])
    unclear: int = 0

    def work(self, until: threading.Event) -> None:
        with httpx.Client(timeout=10) as http:
            while not until.is_set():
                person = self._sign_up(http)
                for _ in range(self.random.randrange(4)):
                    self._rename(http, person)

    def _sign_up(self, http: httpx.Client) -> Person:
        name = f"w{self.number}u{len(self.people)}"
        person = Person(str(uuid4()), f"{name}@example.com", name)
        body = {"id": person.id, "username": name, "password": "pa55word!", "email": person.email}
        answer = self._insist(http, "POST", "/users", body, {"Idempotency-Key": person.id})
        assert answer.status_code == 201, answer.text
        self.people.append(person)
        return person

    def _rename(self, http: httpx.Client, person: Person) -> None:
        name = f"{person.email.partition('@')[0]}-{person.events}"
        answer = self._insist(http, "PUT", f"/users/{person.id}", {"username": name}, {})
        assert answer.status_code == 200, answer.text
        person.name = name
        person.events += 1

    def _insist(
        self, http: httpx.Client, method: str, path: str, body: dict[str, str], headers: dict[str, str]
    ) -> httpx.Response:
        deadline = time.monotonic() + RECOVERY_S
        while True:
            try:
                answer = http.request(method, self.random.choice(self.doors) + path, json=body, headers=headers)
                if answer.status_code < 500:
                    return answer
            except httpx.TransportError:
                pass
            self.unclear += 1
            assert time.monotonic() < deadline, f"{method} {path} has had no clear answer for {RECOVERY_S:g} s"
            time.sleep(0.05)


def kill_at_random(live: LiveSystem, chance: random.Random, *, for_s: float) -> Counter[str]:
    """One victim at a time, each at least once, then at random; every one is started again after a short while."""
    names = [*live.system.services, "valkey", "postgres"]
    kills: Counter[str] = Counter()
    deadline = time.monotonic() + for_s
    round_of_all = chance.sample(names, len(names))
    while round_of_all or time.monotonic() < deadline:
        victim = round_of_all.pop() if round_of_all else chance.choice(names)
        live.call(live.system.kill(victim))
        kills[victim] += 1
        time.sleep(chance.uniform(0.0, 1.5))
        live.call(live.system.start(victim))
        time.sleep(chance.uniform(0.0, 0.5))
    return kills


def everything_is_done(live: LiveSystem) -> bool:
    # Asked from the beginning of the way to its end. A broker that was killed may have lost what it had confirmed, and
    # nobody knows until the owner of the lane, which may have been killed as well, has a successor.
    on_topic = {event["id"] for event in live.topic("accounts-ms")}
    return (
        not live.rows("accounts", "SELECT 1 FROM cauce_outbox LIMIT 1")
        and all(str(event_id) in on_topic for (event_id,) in live.rows("accounts", "SELECT event_id FROM cauce_sent"))
        and all(live.pending("accounts-ms", f"{service}-ms") == 0 for service in ("mailing", "music-discovery"))
        and not any(live.rows(service, "SELECT 1 FROM cauce_waiting LIMIT 1") for service in SERVICES)
        and not live.rows("mailing", "SELECT 1 FROM cauce_inbox WHERE state IS NOT NULL LIMIT 1")
    )


def test_killed_at_random_under_load_everybody_is_welcomed_once_and_nothing_is_lost(
    live: LiveSystem,
) -> None:
    print(f"KILLS_SEED={SEED} KILLS_FOR_S={KILLS_FOR_S:g}")
    doors = [live.accounts, str(live.system.services["accounts-2"].address)]
    writers = [Writer(number, doors, random.Random(SEED + number)) for number in range(WRITERS)]
    enough = threading.Event()
    with ThreadPoolExecutor(WRITERS) as pool:
        working = [pool.submit(writer.work, enough) for writer in writers]
        try:
            kills = kill_at_random(live, random.Random(SEED), for_s=KILLS_FOR_S)
        finally:
            enough.set()
        for one in working:
            one.result()
    people = {person.id: person for writer in writers for person in writer.people}
    eventually(lambda: everything_is_done(live), within_s=RECOVERY_S, what="everything to be done")
    mails = live.mails()
    copies = Counter(mail["message_id"] for mail in mails)
    repeats = sum(copies.values()) - len(copies)
    print(
        f"{len(people)} people, {sum(one.events for one in people.values())} events, {len(mails)} mails, "
        f"{repeats} repeats, {sum(writer.unclear for writer in writers)} unclear answers, kills {dict(kills)}"
    )

    # What was confirmed is there, and nothing else: no lost and no invented account or event.
    accounts = {str(row[0]): str(row[1]) for row in live.rows("accounts", "SELECT id, username FROM users")}
    assert accounts == {person.id: person.name for person in people.values()}
    events = Counter((str(key), str(name)) for key, name in live.rows("accounts", "SELECT key, name FROM cauce_sent"))
    assert events == Counter(
        {(person.id, CREATED): 1 for person in people.values()}
        | {(person.id, UPDATED): person.events - 1 for person in people.values() if person.events > 1}
    )

    # Mails: everybody has one; a repeat is the same mail again, and was made possible by a kill.
    by_recipient: dict[str, set[str]] = {}
    for mail in mails:
        [recipient] = mail["recipients"]
        by_recipient.setdefault(recipient, set()).add(mail["message_id"])
    assert by_recipient.keys() == {person.email for person in people.values()}
    assert all(len(ids) == 1 for ids in by_recipient.values()), "one Message-ID for each recipient"
    in_the_window = {name: count for name, count in kills.items() if name.startswith(("mailing", "postgres"))}
    assert max(copies.values()) <= 1 + sum(in_the_window.values())
    assert repeats <= SENDS_AT_ONCE * sum(in_the_window.values())
    assert {row[0] for row in live.rows("mailing", "SELECT state FROM mails")} == {"sent"}

    # Catalogs: one each, under the name of the last PUT.
    catalogs = live.rows("music-discovery", "SELECT user_id, username FROM user_catalogs")
    assert sorted((str(user), str(name)) for user, name in catalogs) == sorted(accounts.items())

    # The accounting: accepted = applied, for each listener; nothing parked, nothing dead, in order to the last.
    assert all(not live.rows(service, "SELECT consumer, reason, error FROM cauce_dead_letter") for service in SERVICES)
    heard = {
        (name, str(row[0]))
        for name in (CREATED, UPDATED)
        for row in live.rows("accounts", f"SELECT event_id FROM cauce_sent WHERE name = '{name}'")
    }
    known = [str(row[0]) for row in live.rows("music-discovery", "SELECT event_id FROM cauce_inbox")]
    assert sorted(known) == sorted(event_id for _, event_id in heard)
    welcomed = [str(row[0]) for row in live.rows("mailing", "SELECT event_id FROM cauce_inbox")]
    assert sorted(welcomed) == sorted(event_id for name, event_id in heard if name == CREATED)
    on_topic = {event["id"] for event in live.topic("accounts-ms")}
    assert on_topic == {event_id for _, event_id in heard}
    heads = dict(live.rows("accounts", "SELECT key, seq FROM cauce_key_head"))
    assert {str(key): int(seq) for key, seq in heads.items()} == {one.id: one.events for one in people.values()}

    # It was a test: everything was killed, and everybody took lanes over.
    assert kills.keys() == {*live.system.services, "valkey", "postgres"}
    assert len(people) >= 20
    owned = "SELECT count(*) FROM cauce_lane WHERE member IS NOT NULL"
    for service in SERVICES:
        eventually(lambda one=service: live.rows(one, owned) == [(LANES,)], what=f"all lanes of {service} are owned")
