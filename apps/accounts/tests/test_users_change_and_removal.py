"""GET, PUT and DELETE /users/{id}."""

import asyncio

import pytest
from contracts.accounts import UserCreated, UserDeleted, UserUpdated

from .conftest import ARTICLE, Running

NOBODY = "00000000-0000-0000-0000-000000000000"


async def test_a_user_is_read_without_the_password(accounts: Running) -> None:
    user = await accounts.sign_up()

    answer = await accounts.get(user["id"])

    assert answer.status_code == 200
    assert answer.json() == user
    assert set(answer.json()) == {"id", "username", "email"}


async def test_who_does_not_exist_is_404_everywhere(accounts: Running) -> None:
    answers = [
        await accounts.get(NOBODY),
        await accounts.put(NOBODY, username="x"),
        await accounts.delete(NOBODY),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert accounts.published == []


@pytest.mark.parametrize("id", ["1", "12345678-1234-1234-1234-123456789ab%0A", "x" * 2000, "%00"])
async def test_what_is_no_id_is_refused_with_the_parameter_named(on_sqlite: Running, id: str) -> None:  # noqa: A002
    answer = await on_sqlite.get(id)

    assert answer.status_code == 422
    assert [(error["in"], error["path"]) for error in answer.json()["errors"]] == [("path", "id")]


async def test_a_change_is_saved_and_told_whole(accounts: Running) -> None:
    user = await accounts.sign_up()

    answer = await accounts.put(user["id"], username="Zoë")

    assert answer.status_code == 200
    assert answer.json() == user | {"username": "Zoë"}
    assert (await accounts.get(user["id"])).json() == answer.json()
    assert accounts.events()[1:] == [UserUpdated(id=user["id"], username="Zoë", email=user["email"])]


async def test_a_change_of_the_address_leaves_name_and_password(accounts: Running) -> None:
    user = await accounts.sign_up()
    [before] = await accounts.rows()

    await accounts.put(user["id"].upper(), email="new@example.com")

    [after] = await accounts.rows()
    assert after == before | {"email": "new@example.com", "email_key": "new@example.com"}


@pytest.mark.parametrize("how", ["the same values", "nothing", "nulls"])
async def test_a_change_that_changes_nothing_raises_no_event(accounts: Running, how: str) -> None:
    user = await accounts.sign_up()
    changes = {
        "the same values": {"username": user["username"], "email": user["email"]},
        "nothing": {},
        "nulls": {"username": None, "email": None},
    }[how]

    answer = await accounts.put(user["id"], **changes)

    assert answer.status_code == 200
    assert answer.json() == user
    assert len(accounts.published) == 1


async def test_one_s_own_name_may_be_written_in_another_case(accounts: Running) -> None:
    user = await accounts.sign_up(username="ana")

    answer = await accounts.put(user["id"], username="ANA")

    assert answer.status_code == 200
    assert len(accounts.published) == 2


async def test_a_name_or_an_address_of_somebody_else_is_409_and_changes_nothing(accounts: Running) -> None:
    other = await accounts.sign_up()
    user = await accounts.sign_up()

    answer = await accounts.put(user["id"], username=other["username"].upper(), email=other["email"])

    assert answer.status_code == 409
    assert [error["path"] for error in answer.json()["errors"]] == ["/username", "/email"]
    assert (await accounts.get(user["id"])).json() == user
    assert len(accounts.published) == 2


async def test_neither_id_nor_password_can_be_changed(on_sqlite: Running) -> None:
    user = await on_sqlite.sign_up()

    answer = await on_sqlite.put(user["id"], id=NOBODY, password="another password")

    assert answer.status_code == 422
    assert {error["path"] for error in answer.json()["errors"]} == {"/id", "/password"}


async def test_of_ten_who_want_one_name_at_once_one_gets_it(accounts: Running) -> None:
    users = [await accounts.sign_up() for _ in range(10)]

    answers = await asyncio.gather(*(accounts.put(user["id"], username="wanted") for user in users))

    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 9]
    assert [type(event) for event in accounts.events()[10:]] == [UserUpdated]


async def test_two_changes_at_once_lose_neither(accounts: Running) -> None:
    user = await accounts.sign_up()

    await asyncio.gather(
        accounts.put(user["id"], username="new name"), accounts.put(user["id"], email="new@example.com")
    )

    now = (await accounts.get(user["id"])).json()
    assert (now["username"], now["email"]) == ("new name", "new@example.com")
    last = accounts.events()[-1]
    assert (last.username, last.email) == ("new name", "new@example.com")


async def test_a_removed_user_is_gone_and_told(accounts: Running) -> None:
    user = await accounts.sign_up()

    answer = await accounts.delete(user["id"])

    assert (answer.status_code, answer.content) == (204, b"")
    assert (await accounts.get(user["id"])).status_code == 404
    assert (await accounts.delete(user["id"])).status_code == 404
    assert accounts.events()[1:] == [UserDeleted(id=user["id"])]


async def test_after_a_removal_the_same_request_makes_a_new_user(accounts: Running) -> None:
    await accounts.post(ARTICLE)
    await accounts.delete(ARTICLE["id"])

    answer = await accounts.post(ARTICLE)

    assert answer.status_code == 201
    assert [type(event) for event in accounts.events()] == [UserCreated, UserDeleted, UserCreated]
    assert len({one.id for one in accounts.published}) == 3


async def test_of_ten_removals_at_once_one_is_told(accounts: Running) -> None:
    user = await accounts.sign_up()

    answers = await asyncio.gather(*(accounts.delete(user["id"]) for _ in range(10)))

    assert sorted(answer.status_code for answer in answers) == [204, *[404] * 9]
    assert len(accounts.published) == 2


async def test_what_the_router_does_not_know_is_a_problem_document_too(on_sqlite: Running) -> None:
    unknown = await on_sqlite.http.get("/user")
    not_possible = await on_sqlite.http.patch("/users")

    assert (unknown.status_code, not_possible.status_code) == (404, 405)
    assert unknown.headers["content-type"] == "application/problem+json"
    assert not_possible.headers["allow"] == "POST"


async def test_there_is_a_page_that_shows_the_api(on_sqlite: Running) -> None:
    assert "swagger" in (await on_sqlite.http.get("/docs")).text
    described = (await on_sqlite.http.get("/openapi.json")).json()
    assert set(described["paths"]) == {"/users", "/users/{id}"}
    assert "HTTPValidationError" not in str(described)
