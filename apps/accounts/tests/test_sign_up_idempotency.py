"""The Idempotency-Key header: a repeat gets the first answer and does nothing."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from sqlalchemy import text

from .conftest import ARTICLE, Running, somebody


async def test_a_repeat_with_the_same_key_gets_the_first_answer_and_raises_no_event(accounts: Running) -> None:
    body = somebody()
    first = await accounts.post(body, key="k-1")

    repeat = await accounts.post(body, key="k-1")

    assert (first.status_code, repeat.status_code) == (201, 201)
    assert repeat.json() == first.json()
    assert repeat.headers["location"] == first.headers["location"]
    assert len(accounts.published) == len(await accounts.rows()) == 1


async def test_a_repeat_may_be_written_differently_if_it_says_the_same(accounts: Running) -> None:
    first = await accounts.post(ARTICLE, key="k")

    repeat = await accounts.post(ARTICLE | {"id": ARTICLE["id"].upper(), "email": "john.doe@EXAMPLE.com"}, key="k")

    assert repeat.json() == first.json()


@pytest.mark.parametrize(
    "other",
    [
        {"username": "jane"},
        {"email": "jane@example.com"},
        {"password": "password124"},
        {"id": "12345678-1234-1234-1234-123456789abd"},
        {"id": None},
    ],
)
async def test_the_same_key_with_another_body_is_refused(accounts: Running, other: dict[str, str]) -> None:
    await accounts.post(ARTICLE, key="k")

    answer = await accounts.post(ARTICLE | other, key="k")

    assert answer.status_code == 422
    assert [(error["in"], error["path"]) for error in answer.json()["errors"]] == [("header", "Idempotency-Key")]
    assert len(accounts.published) == 1


async def test_of_ten_at_once_with_one_key_all_get_the_one_answer(accounts: Running) -> None:
    body = somebody()

    answers = await asyncio.gather(*(accounts.post(body, key="k") for _ in range(10)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert len(accounts.published) == len(await accounts.rows()) == 1


async def test_of_two_different_requests_at_once_with_one_key_one_is_refused(accounts: Running) -> None:
    answers = await asyncio.gather(accounts.post(somebody(), key="k"), accounts.post(somebody(), key="k"))

    assert sorted(answer.status_code for answer in answers) == [201, 422]
    assert len(accounts.published) == len(await accounts.rows()) == 1


async def test_a_409_is_an_answer_too_and_stays_one(accounts: Running) -> None:
    other = await accounts.sign_up()
    body = somebody(email=other["email"])
    first = await accounts.post(body, key="k")
    await accounts.delete(other["id"])

    repeat = await accounts.post(body, key="k")

    assert first.status_code == repeat.status_code == 409
    assert repeat.json() == first.json()
    assert (await accounts.post(body)).status_code == 201


async def test_a_refused_body_does_not_use_up_the_key(accounts: Running) -> None:
    await accounts.post(somebody(username="a,b"), key="k")

    assert (await accounts.post(somebody(), key="k")).status_code == 201


async def test_a_late_repeat_does_not_bring_back_a_removed_user(accounts: Running) -> None:
    first = await accounts.post(ARTICLE, key="k")
    await accounts.delete(ARTICLE["id"])

    repeat = await accounts.post(ARTICLE, key="k")

    assert repeat.json() == first.json()
    assert await accounts.rows() == []
    assert (await accounts.post(ARTICLE, key="another")).status_code == 201


async def test_a_key_is_kept_for_a_day(accounts: Running) -> None:
    with time_machine.travel(datetime.now(UTC) - timedelta(hours=25), tick=True):
        await accounts.post(ARTICLE, key="k")
    await accounts.delete(ARTICLE["id"])

    answer = await accounts.post(ARTICLE | {"username": "jane"}, key="k")

    assert answer.status_code == 201
    assert [row["key"] for row in await accounts.rows("SELECT key FROM idempotency_keys")] == ["k"]


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "ñ"])
async def test_a_key_that_is_none_is_refused(on_sqlite: Running, key: str) -> None:
    answer = await on_sqlite.http.post("/users", json=somebody(), headers=[(b"idempotency-key", key.encode("utf-8"))])

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["in"] == "header"


async def test_what_is_kept_under_a_key_is_neither_personal_nor_easier_to_guess_from(accounts: Running) -> None:
    await accounts.post(ARTICLE, key="k")

    async with accounts.service.transaction(read_only=True) as tx:
        [row] = (await tx.session.execute(text("SELECT * FROM idempotency_keys"))).all()
    kept = str(row)
    for personal in (ARTICLE["username"], ARTICLE["email"], ARTICLE["password"], "argon2"):
        assert personal not in kept
