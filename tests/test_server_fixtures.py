"""The fixtures of the root conftest.py, as the other tests rely on them."""
# redis-py's methods take untyped keyword arguments
# pyright: reportUnknownMemberType=false

import smtplib

import psycopg
import pytest
import redis
from cauce.dev.servers import MailSinkServer, PostgresServer, ScratchDatabases, ValkeyServer
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry


def test_the_valkey_is_real_and_wants_its_password(valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.info("server")["server_name"] == "valkey"
        client.set("left", "behind")
    with (
        redis.Redis(host=valkey.host, port=valkey.port, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.ping()


def test_the_shared_valkey_is_empty_for_every_test(valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        assert client.dbsize() == 0


def test_a_valkey_of_its_own_keeps_its_data_and_address_when_killed_and_started(
    own_valkey: ValkeyServer,
) -> None:
    with redis.Redis.from_url(own_valkey.url) as client:
        client.xadd("stream", {"a": "1"})

    port = own_valkey.port
    own_valkey.kill()
    own_valkey.start()

    assert own_valkey.port == port
    with redis.Redis.from_url(own_valkey.url) as client:
        assert client.xlen("stream") == 1


def test_a_paused_valkey_holds_connections_and_answers_nothing_until_it_is_resumed(
    own_valkey: ValkeyServer,
) -> None:
    own_valkey.pause()
    assert not own_valkey.answers()
    own_valkey.resume()
    assert own_valkey.answers()


def test_every_database_of_the_postgres_is_fresh_and_separate(postgres: ScratchDatabases) -> None:
    first, second = (url.replace("+psycopg", "") for url in (postgres.database(), postgres.database()))
    assert first != second
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE mine (id int)")
        connection.execute("CREATE EXTENSION unaccent")
    with psycopg.connect(second) as connection:
        assert connection.execute("SELECT to_regclass('mine')").fetchone() == (None,)
        assert (connection.execute("SHOW server_version").fetchone() or ("",))[0]


def test_a_postgres_killed_hard_keeps_what_was_committed(own_postgres: PostgresServer) -> None:
    url = own_postgres.create_database("accounts").replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (id int)")
        connection.execute("INSERT INTO kept VALUES (1)")

    own_postgres.kill()
    own_postgres.start()

    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]


def test_one_role_cannot_enter_the_database_of_another(own_postgres: PostgresServer) -> None:
    accounts = own_postgres.create_database("accounts").replace("+psycopg", "")
    own_postgres.create_database("mailing")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(accounts.removesuffix("accounts") + "mailing")


def test_the_mail_sink_shows_what_was_sent(mail_sink: MailSinkServer) -> None:
    with smtplib.SMTP(mail_sink.host, mail_sink.smtp_port) as client:
        client.sendmail("from@example.com", ["to@example.com"], "Subject: hi\r\n\r\nhello\r\n")
    (mail,) = mail_sink.mails()
    assert (mail["sender"], mail["recipients"], mail["subject"]) == (
        "from@example.com",
        ["to@example.com"],
        "hi",
    )
