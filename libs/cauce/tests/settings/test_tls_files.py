"""Files of certificates that a URL names: whatever is wrong with one is told at start, by option and file, all at once."""

import os
import pwd
import tempfile
from pathlib import Path

import pytest
import trustme
from cauce.admin.broker import open_broker
from cauce.admin.database import DatabaseUnavailableError, ask_each, open_engine, read_only_connection
from cauce.admin.targets import Broker, Target
from cauce.errors import ConfigurationError
from cauce.settings.tls_files import problems_of_url
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_pubsub import RedisPubSub
from cauce.transports.redis_streams import RedisStreams
from cryptography.hazmat.primitives import serialization
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

PASSWORD = "sesame"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an authority, a certificate with its key, another key, and what is none of them."""
    authority, another = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("client.example")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    another.issue_cert("other.example").private_key_pem.write_to_path(str(tmp_path / "other-key.pem"))
    (tmp_path / "text.pem").write_text("not a certificate\n")
    (tmp_path / "empty.pem").write_text("")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    pkcs8, locked = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(PASSWORD.encode())
    (tmp_path / "locked.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, locked))
    (tmp_path / "key.der").write_bytes(
        key.private_bytes(serialization.Encoding.DER, pkcs8, serialization.NoEncryption())
    )
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_variables_of_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)


NO_CERTIFICATE = "it holds no certificate (expected PEM: -----BEGIN CERTIFICATE-----)"
NO_KEY = "it holds no private key (expected PEM: -----BEGIN PRIVATE KEY-----)"

REDIS: list[tuple[str, list[str]]] = [
    ("ssl_ca_certs=ca.pem", []),
    ("ssl_ca_certs=ca.pem&ssl_certfile=cert.pem&ssl_keyfile=key.pem", []),
    ("ssl_certfile=both.pem", []),
    (f"ssl_certfile=cert.pem&ssl_keyfile=locked.pem&ssl_password={PASSWORD}", []),
    ("ssl_ca_certs=gone.pem", ["ssl_ca_certs=gone.pem: no such file"]),
    ("ssl_ca_certs=.", ["ssl_ca_certs=.: it is a folder, and a file is expected"]),
    ("ssl_ca_certs=text.pem", [f"ssl_ca_certs=text.pem: {NO_CERTIFICATE}"]),
    ("ssl_ca_certs=empty.pem", [f"ssl_ca_certs=empty.pem: {NO_CERTIFICATE}"]),
    ("ssl_ca_path=gone", ["ssl_ca_path=gone: no such folder"]),
    (
        "ssl_ca_certs=gone.pem&ssl_certfile=text.pem&ssl_keyfile=gone-too.pem",
        [
            "ssl_ca_certs=gone.pem: no such file",
            f"ssl_certfile=text.pem: {NO_CERTIFICATE}",
            "ssl_keyfile=gone-too.pem: no such file",
        ],
    ),
    ("ssl_certfile=cert.pem", [f"ssl_certfile=cert.pem: {NO_KEY}"]),
    ("ssl_certfile=cert.pem&ssl_keyfile=text.pem", [f"ssl_keyfile=text.pem: {NO_KEY}"]),
    (
        "ssl_certfile=cert.pem&ssl_keyfile=other-key.pem",
        ["ssl_keyfile=other-key.pem: it is not the key of ssl_certfile=cert.pem"],
    ),
    (
        "ssl_certfile=cert.pem&ssl_keyfile=locked.pem",
        ["ssl_keyfile=locked.pem: the key is encrypted, and ssl_password is not given"],
    ),
    (
        "ssl_certfile=cert.pem&ssl_keyfile=locked.pem&ssl_password=guessed",
        ["ssl_keyfile=locked.pem: the key is encrypted, and ssl_password does not open it"],
    ),
    (
        "ssl_keyfile=key.pem",
        ["ssl_keyfile=key.pem: a key needs its certificate, and ssl_certfile is not given"],
    ),
]


@pytest.mark.parametrize(("query", "problems"), REDIS)
def test_of_redis(query: str, problems: list[str], files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    url = f"rediss://:hunter2@h:1/0?{query}"
    assert list(problems_of_url(url)) == problems
    for transport in (RedisStreams, RedisPubSub):
        if not problems:
            transport(url)
            continue
        with pytest.raises(ConfigurationError) as raised:
            transport(url)
        assert list(raised.value.problems)[: len(problems)] == problems
        assert "[Errno" not in str(raised.value)
        assert "hunter2" not in str(raised.value)
        assert "guessed" not in str(raised.value)


def test_an_unknown_option_is_told_together_with_the_files() -> None:
    with pytest.raises(ConfigurationError) as raised:
        RedisStreams("rediss://h?ssl_ca_certs=/gone.pem&ssl_kefile=x")
    assert raised.value.problems == ("ssl_ca_certs=/gone.pem: no such file", "unknown: 'ssl_kefile'")


POSTGRESQL: list[tuple[str, list[str]]] = [
    ("sslmode=verify-full&sslrootcert=ca.pem", []),
    ("sslmode=verify-full&sslrootcert=system", []),
    ("sslrootcert=ca.pem&sslcert=cert.pem&sslkey=key.pem", []),
    ("sslcert=cert.pem&sslkey=key.der", []),
    (f"sslcert=cert.pem&sslkey=locked.pem&sslpassword={PASSWORD}", []),
    ("sslcert=cert.pem&sslkey=pkcs11:token", []),
    ("sslmode=disable&sslrootcert=gone.pem", []),
    ("sslmode=require&sslrootcert=gone.pem", ["sslrootcert=gone.pem: no such file"]),
    ("sslmode=require&sslrootcert=text.pem", [f"sslrootcert=text.pem: {NO_CERTIFICATE}"]),
    ("sslcert=gone.pem&sslkey=key.pem", ["sslcert=gone.pem: no such file"]),
    (
        "sslrootcert=gone.pem&sslcert=cert.pem&sslkey=gone-too.pem&sslcrl=gone.crl&sslcrldir=gone&passfile=gone.pass",
        [
            "sslrootcert=gone.pem: no such file",
            "sslcrldir=gone: no such folder",
            "sslcrl=gone.crl: no such file",
            "passfile=gone.pass: no such file",
            "sslkey=gone-too.pem: no such file",
        ],
    ),
    ("sslcert=cert.pem&sslkey=other-key.pem", ["sslkey=other-key.pem: it is not the key of sslcert=cert.pem"]),
]


@pytest.mark.parametrize(("query", "problems"), POSTGRESQL)
def test_of_postgresql(query: str, problems: list[str], files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq says nothing of most of these, and connects without what the file was for."""
    monkeypatch.chdir(files)
    url = f"postgresql+psycopg://shop:hunter2@h/shop?{query}"
    assert list(problems_of_url(url)) == problems
    if not problems:
        create_engine(url)
        return
    for make in (lambda: create_engine(url), lambda: SqlAlchemyStore(create_async_engine(url))):
        with pytest.raises(ConfigurationError) as raised:
            make()
        assert list(raised.value.problems) == problems
        assert "hunter2" not in str(raised.value)


def test_what_is_given_to_the_driver_or_in_the_environment_counts_too(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match=f"sslrootcert={files}/gone.pem: no such file"):
        create_engine("postgresql+psycopg://h/shop", connect_args={"sslrootcert": str(files / "gone.pem")})
    monkeypatch.setenv("PGSSLROOTCERT", "/gone.pem")
    with pytest.raises(ConfigurationError, match=r"PGSSLROOTCERT=/gone\.pem: no such file"):
        create_engine("postgresql+psycopg://h/shop")
    monkeypatch.setenv("PGSSLMODE", "disable")
    create_engine("postgresql+psycopg://h/shop")


def test_a_key_that_others_may_read_is_told_before_libpq_refuses_it(files: Path) -> None:
    (files / "key.pem").chmod(0o644)
    assert list(problems_of_url(f"postgresql://h/d?sslcert={files}/cert.pem&sslkey={files}/key.pem")) == [
        f"sslkey={files}/key.pem: others may read it (mode 644), and PostgreSQL's library refuses it then: chmod 600"
    ]


def test_a_file_that_this_account_may_not_read_is_told() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        file = Path(folder, "ca.pem")
        file.write_text("x")
        file.chmod(0)
        if os.geteuid() == 0:  # root may read everything
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            problems = list(problems_of_url(f"rediss://h?ssl_ca_certs={file}"))
        finally:
            os.seteuid(os.getuid())
    assert problems == [f"ssl_ca_certs={file}: this account may not read it"]


def test_a_pipe_is_not_used_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert list(problems_of_url(f"rediss://h?ssl_ca_certs={tmp_path / 'pipe'}")) == []


def target(database: str) -> Target:
    return Target(
        name="shop",
        database=make_url(database),
        origin="SHOP_DATABASE_URL (environment)",
        broker=Broker(url="rediss://h?ssl_ca_certs=/gone.pem", origin="REDIS_URL (environment)"),
    )


async def test_commands_name_the_variable_and_the_other_services_are_asked_all_the_same(tmp_path: Path) -> None:
    wrong = target("postgresql+psycopg://shop:hunter2@h/shop?sslrootcert=/gone.pem")
    said = "shop: h:5432/shop (SHOP_DATABASE_URL (environment)): sslrootcert=/gone.pem: no such file"

    async def ask(each: Target) -> str:
        async with read_only_connection(each):
            return "asked"

    _, unreachable = await ask_each([wrong], ask)
    assert unreachable == {"shop": said}
    with pytest.raises(DatabaseUnavailableError, match="no such file"):
        async with open_engine(wrong):
            pass
    with pytest.raises(ConfigurationError) as raised:
        async with open_broker(wrong.broker):
            pass
    assert raised.value.problems == ("ssl_ca_certs=/gone.pem: no such file",)
    assert "REDIS_URL (environment)" in str(raised.value)
