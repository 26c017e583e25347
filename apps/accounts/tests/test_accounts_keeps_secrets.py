"""No password, hash, name or address in a log, an event or an answer, even at DEBUG and when things break."""

import io
import json
import logging

import pytest
from accounts.domain import User
from accounts.infrastructure.tables import metadata
from accounts.infrastructure.users import SqlUsers
from seedwork import logs

from .conftest import ARTICLE, Running, settings_for, somebody

SECRET = "correct horse battery"
PERSONAL = ("ana.secret", "Ana Secret", SECRET, "argon2")


@pytest.fixture(params=["console", "json"])
def log(request: pytest.FixtureRequest, root_logger: logging.Logger, database_url: str) -> io.StringIO:
    stream = io.StringIO()
    settings = settings_for(database_url, LOG_LEVEL="DEBUG", LOG_FORMAT=request.param)
    logs.configure(settings, out=stream)
    return stream


def ana(**given: str) -> dict[str, str]:
    return somebody(username="Ana Secret", email="ana.secret@example.com", password=SECRET, **given)


async def test_a_life_of_a_user_leaves_only_ids_in_the_log(log: io.StringIO, accounts: Running) -> None:
    user = (await accounts.post(ana(), key="k")).json()
    await accounts.post(ana())
    await accounts.post(ana(), key="k")
    await accounts.put(user["id"], username="Ana Secret 2")
    await accounts.post({**ana(), "password": SECRET + "\u0000" * 200})
    await accounts.delete(user["id"])

    written = log.getvalue()
    assert f"User created: {user['id']}" in written
    assert accounts.published[0].id in written
    for personal in PERSONAL:
        assert personal not in written


async def test_an_unexpected_error_says_nothing_to_the_client_and_no_secret_to_the_log(
    log: io.StringIO, accounts: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: SqlUsers, user: object) -> None:
        raise RuntimeError(f"cannot save {user!r} password={SECRET!r} of ana.secret@example.com")

    monkeypatch.setattr(SqlUsers, "add", broken)

    answer = await accounts.post(ana() | {"username": "Somebody"})

    assert answer.status_code == 500
    assert "RuntimeError" not in answer.text
    assert "RuntimeError" in log.getvalue()
    assert "Traceback" in log.getvalue()
    for personal in PERSONAL:
        assert personal not in log.getvalue()


@pytest.mark.parametrize("password_hash", [SECRET, None], ids=["a taken name", "a missing value"])
async def test_an_error_of_the_database_keeps_the_values_to_itself(
    log: io.StringIO, accounts: Running, monkeypatch: pytest.MonkeyPatch, password_hash: str | None
) -> None:
    if password_hash:
        await accounts.post(ana())

    async def careless(self: SqlUsers, user: User) -> None:
        values = {"username": user.username, "email": user.email, "password_hash": password_hash}
        keys = {"id": user.id, "username_key": user.username_key, "email_key": user.email_key}
        insert = metadata.tables["users"].insert().values(**values, **keys)
        await self._session.execute(insert)  # pyright: ignore[reportPrivateUsage]  # a bug is being planted

    monkeypatch.setattr(SqlUsers, "add", careless)
    monkeypatch.setattr(SqlUsers, "taken", _nothing_taken)

    answer = await accounts.post(ana())

    assert answer.status_code == 500
    assert "IntegrityError" in log.getvalue()
    for personal in PERSONAL:
        assert personal.lower() not in log.getvalue().lower()
        assert personal.lower() not in answer.text.lower()


async def _nothing_taken(self: SqlUsers, *_: object) -> tuple[()]:
    return ()


async def test_the_password_is_in_no_event_no_answer_and_no_table_but_hashed_in_its_own(
    accounts: Running,
) -> None:
    answers = [await accounts.post(ARTICLE, key="k"), await accounts.get(ARTICLE["id"])]

    assert all("password" not in answer.text and "argon2" not in answer.text for answer in answers)
    assert all(ARTICLE["password"] not in str(one) and "argon2" not in str(one) for one in accounts.published)
    kept = {name: str(await accounts.rows(f"SELECT * FROM {name}")) for name in metadata.tables}
    assert {name for name, rows in kept.items() if "argon2" in rows} == {"users"}
    assert not any(ARTICLE["password"] in rows for rows in kept.values())


@pytest.mark.parametrize("password", ["hunter2", "hunter2" * 30, "hunter2\ud800hunter2"])
async def test_a_refused_password_is_not_in_the_answer(on_sqlite: Running, password: str) -> None:
    answer = await on_sqlite.http.post(
        "/users",
        content=json.dumps(somebody(password=password)),
        headers={"content-type": "application/json"},
    )

    assert answer.status_code == 422
    assert "hunter2" not in answer.text
