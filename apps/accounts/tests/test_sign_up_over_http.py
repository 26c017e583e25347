"""POST /users: who becomes a user, who does not, and what the other services hear of it."""

import asyncio
import json
from typing import Any

import pytest
from contracts.accounts import UserCreated

from .conftest import ARTICLE, Running, somebody

INVISIBLE = {
    "line feed": "a\nb",
    "carriage return": "a\r\nBcc: x",
    "NUL": "a\x00b",
    "unicode line separator": "a\u2028b",
    "unicode paragraph separator": "a\u2029b",
    "next line": "a\x85b",
    "right-to-left override": "a\u202eb",
    "zero-width space": "a\u200bb",
    "comma": "a,b",
    "semicolon": "a;b",
    "full-width comma": "a\uff0cb",
    "Greek question mark, which is a semicolon": "a\u037eb",
    "surrounding blanks": " a ",
    "only blanks": "   ",
    "nothing": "",
    "too long": "x" * 65,
    "short, but long once composed characters are taken apart": "\ufdfa" * 4,
    "half a surrogate pair": "a\ud800b",
    "a letter that is blank": "a\u3164",
    "a blank letter alone": "\u3164",
    "the blank Braille pattern": "\u2800",
    "an invisible tag": "a\U000e0041",
    "two blanks together": "a  b",
    "a symbol": "\U0001f3b8",
    "directions that are displayed in another order": "\u05d0a",
}
BAD_ADDRESSES = [
    "",
    "john",
    "john@",
    "@example.com",
    "john@example",
    "john@example.com, jane@example.com",
    "john@example.com;jane@example.com",
    "john@example.com\r\nBcc: jane@example.com",
    "john@example.com\u2028Bcc: jane@example.com",
    "John <john@example.com>",
    '"john,jane"@example.com',
    "john@[127.0.0.1]",
    "jo\x00hn@example.com",
    "josé@example.com",
    "john@example.com\n",
    "a" * 65 + "@example.com",
    "john@" + "a" * 250 + ".com",
    "=?utf-8?q?a=0d=0aBcc=3a_evil=40x.example?=@ours.example",
    "=?utf-8?b?YQ0KQmNjOiBlQHguZXhhbXBsZQ==?=@ours.example",
    "a=?x?q?=0a?=b@ours.example",
    "jo\ud800hn@example.com",
    "john@ex\u202eample.com",
]


async def test_the_article_s_request_as_printed_makes_a_user_and_one_event(accounts: Running) -> None:
    answer = await accounts.post(ARTICLE)

    assert answer.status_code == 201
    assert answer.json() == {key: ARTICLE[key] for key in ("id", "username", "email")}
    assert answer.headers["location"] == f"/users/{ARTICLE['id']}"
    [event] = accounts.published
    assert event.payload == UserCreated(id=ARTICLE["id"], username=ARTICLE["username"], email=ARTICLE["email"])
    assert event.key == ARTICLE["id"]


async def test_the_same_request_again_is_answered_409_and_raises_no_second_event(accounts: Running) -> None:
    await accounts.post(ARTICLE)

    again = await accounts.post(ARTICLE)

    assert again.status_code == 409
    assert again.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in again.json()["errors"]] == ["/id", "/username", "/email"]
    assert len(accounts.published) == 1
    assert len(await accounts.rows()) == 1


@pytest.mark.parametrize(
    ("same", "path"),
    [
        ({"id": ARTICLE["id"].upper()}, "/id"),
        ({"username": "JOHN_doe"}, "/username"),
        ({"username": "ｊohn_doe"}, "/username"),
        ({"email": "John.Doe@EXAMPLE.com"}, "/email"),
    ],
)
async def test_a_409_names_what_is_taken_whatever_the_case(accounts: Running, same: dict[str, str], path: str) -> None:
    await accounts.post(ARTICLE)

    answer = await accounts.post(somebody(**same))

    assert answer.status_code == 409
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert len(accounts.published) == 1


async def test_without_an_id_we_choose_one(accounts: Running) -> None:
    first, second = await accounts.sign_up(), await accounts.sign_up(id=None)

    assert first["id"] != second["id"]
    assert [event.id for event in accounts.events()] == [first["id"], second["id"]]
    assert (await accounts.get(first["id"])).json() == first


async def test_an_id_of_any_variant_is_kept_as_given_in_lower_case(accounts: Running) -> None:
    user = await accounts.sign_up(id="FFFFFFFF-0000-0000-0000-ABCDEFABCDEF")

    assert user["id"] == "ffffffff-0000-0000-0000-abcdefabcdef"
    assert (await accounts.get("FFFFFFFF-0000-0000-0000-ABCDEFABCDEF")).json() == user


async def test_the_event_is_made_from_the_saved_row(accounts: Running) -> None:
    user = await accounts.sign_up(username="Jose\u0301", email="Jose@BÜCHER.example")

    [event] = accounts.events()
    assert (event.username, event.email) == ("José", "Jose@xn--bcher-kva.example")
    assert (user["username"], user["email"]) == (event.username, event.email)


@pytest.mark.parametrize("username", INVISIBLE.values(), ids=INVISIBLE.keys())
async def test_a_name_that_could_mislead_a_mail_or_a_log_is_refused(on_sqlite: Running, username: str) -> None:
    answer = await on_sqlite.post(somebody(username=username))

    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == ["/username"]
    assert on_sqlite.published == []


@pytest.mark.parametrize("username", ["ñandú", "Émile Zola", "李小龍", "O'Brien-Smith", "<b>bold</b>", "a@b", "x" * 64])
async def test_names_of_all_languages_are_taken(on_sqlite: Running, username: str) -> None:
    assert (await on_sqlite.sign_up(username=username))["username"] == username


@pytest.mark.parametrize("email", BAD_ADDRESSES)
async def test_an_address_that_is_not_exactly_one_is_refused(on_sqlite: Running, email: str) -> None:
    answer = await on_sqlite.post(somebody(email=email))

    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == ["/email"]
    assert on_sqlite.published == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": "1"}, "/id"),
        ({"id": "12345678-1234-1234-1234-123456789abc\n"}, "/id"),
        ({"id": "12345678123412341234123456789abc"}, "/id"),
        ({"id": "g2345678-1234-1234-1234-123456789abc"}, "/id"),
        ({"id": "\ud8002345678-1234-1234-1234-123456789ab"}, "/id"),
        ({"username": 5}, "/username"),
        ({"username": None}, "/username"),
        ({"password": "short"}, "/password"),
        ({"password": 12345678}, "/password"),
        ({"password": None}, "/password"),
        ({"password": "correct horse \ud800"}, "/password"),
        ({"email": ["john@example.com"]}, "/email"),
        ({"role": "admin"}, "/role"),
        ({"password_hash": "x"}, "/password_hash"),
    ],
)
async def test_a_wrong_or_unknown_field_is_refused_with_its_path(
    on_sqlite: Running, change: dict[str, Any], path: str
) -> None:
    answer = await on_sqlite.post(somebody(**change))

    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert await on_sqlite.rows() == []


async def test_everything_wrong_is_said_at_once(on_sqlite: Running) -> None:
    answer = await on_sqlite.http.post("/users", json={"username": "a,b", "extra": 1})

    found = {error["path"] for error in answer.json()["errors"]}
    assert found == {"/username", "/password", "/email", "/extra"}


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"null", b"\xff\xfe", b"[" * 15000])
async def test_a_body_that_is_no_object_is_a_client_s_error(on_sqlite: Running, body: bytes) -> None:
    answer = await on_sqlite.http.post("/users", content=body, headers={"content-type": "application/json"})

    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_body_that_does_not_say_json_is_refused(on_sqlite: Running) -> None:
    answer = await on_sqlite.http.post("/users", content=json.dumps(ARTICLE))

    assert answer.status_code == 415


async def test_a_password_typed_on_another_keyboard_is_the_same_password(accounts: Running) -> None:
    body = somebody(password="contraseña ①")
    composed = await accounts.post(body, key="k")

    decomposed = await accounts.post(body | {"password": "contrasen\u0303a 1"}, key="k")

    assert composed.json() == decomposed.json()


async def test_the_password_is_kept_as_argon2id_with_owasp_s_least_cost(accounts: Running) -> None:
    await accounts.post(ARTICLE)

    [row] = await accounts.rows()
    kind, version, costs = row["password_hash"].split("$")[1:4]
    costs = dict(cost.split("=") for cost in costs.split(","))
    assert (kind, version) == ("argon2id", "v=19")
    assert int(costs["m"]) >= 19 * 1024
    assert int(costs["t"]) >= 2
    assert ARTICLE["password"] not in str(row)


async def test_of_twenty_at_once_with_one_address_one_becomes_a_user(accounts: Running) -> None:
    answers = await asyncio.gather(*(accounts.post(somebody(email="one@example.com")) for _ in range(20)))

    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 19]
    assert all(
        [error["path"] for error in answer.json()["errors"]] == ["/email"]
        for answer in answers
        if answer.status_code == 409
    )
    assert len(accounts.published) == 1
    assert len(await accounts.rows()) == 1


async def test_of_twenty_at_once_with_one_id_one_becomes_a_user(accounts: Running) -> None:
    answers = await asyncio.gather(*(accounts.post(somebody(id=ARTICLE["id"])) for _ in range(20)))

    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 19]
    assert len(accounts.published) == 1


async def test_sixty_different_sign_ups_at_once_all_succeed(accounts: Running) -> None:
    answers = await asyncio.gather(*(accounts.post(somebody()) for _ in range(60)))

    assert {answer.status_code for answer in answers} == {201}
    assert len(accounts.published) == len(await accounts.rows()) == 60
