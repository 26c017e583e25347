"""Under `cauce dev` each service has a user of its own at the broker, with a password of its own and its rights alone."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from cauce.admin.targets import find_targets
from cauce.dev.plan import make_plan
from cauce.dev.servers import ValkeyServer
from cauce.dev.system import DevSystem
from cauce.errors import ConfigurationError
from cauce.settings.project import Project
from cauce.transports.redis_streams import RedisStreams
from testsupport.redis_under_test import OtherServer

PYPROJECT = """\
[tool.cauce.dev]
servers = ["valkey"]
pubsub_if = "EVENTS=pubsub"
bridge_if = "BRIDGE=on"

[tool.cauce.dev.services.shop]
command = "shop"
broker = "SHOP_REDIS_URL"
source = "shop-ms"

[tool.cauce.dev.services.the-mail]
command = "mail"
broker = "MAIL_REDIS_URL"
source = "mail-ms"
hears = ["shop-ms"]
"""
REFUSED = r"(?i)noperm|no permissions|WRONGPASS"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return written(tmp_path, PYPROJECT)


def written(folder: Path, text: str) -> Project:
    (folder / "pyproject.toml").write_text(text)
    return Project.find(folder)


@pytest.fixture(params=["valkey", "redis7"])
def server(request: pytest.FixtureRequest, project: Project, servers_folder: Path) -> Iterator[ValkeyServer]:
    """The broker as `cauce dev` starts it for the project, of either kind."""
    program = request.getfixturevalue("redis7_program") if request.param == "redis7" else None
    users = {user.name: user.rights for user in make_plan(project, {}).users.values()}
    broker = OtherServer(servers_folder / f"users-{request.param}", program=program, users=users)
    broker.start()
    yield broker
    broker.kill()


def client(url: str) -> Any:
    return cast("Any", redis.Redis).from_url(url, protocol=2, decode_responses=True)


def refused(user: Any, *command: str) -> None:
    with pytest.raises(redis.ResponseError, match=REFUSED):
        user.execute_command(*command)


def test_a_service_writes_in_its_own_topic_and_in_no_other(server: ValkeyServer) -> None:
    with client(server.url_of("shop")) as shop, client(server.url_of("the_mail")) as mail:
        assert shop.xadd("cauce:{shop-ms}:0", {"e": "sold"})
        assert mail.xadd("cauce:{mail-ms}:0", {"e": "sent"})

        for user, topic in ((shop, "mail-ms"), (shop, "others-ms"), (mail, "shop-ms"), (mail, "others-ms")):
            refused(user, "XADD", f"cauce:{{{topic}}}:0", "*", "e", "forged")
            refused(user, "XTRIM", f"cauce:{{{topic}}}:0", "MAXLEN", "0")
            refused(user, "HSET", f"cauce:{{{topic}}}:trimmed", "0", "9-9")


def test_a_service_reads_the_topics_that_it_hears_and_no_other_key(server: ValkeyServer) -> None:
    with (
        client(server.url) as operator,
        client(server.url_of("shop")) as shop,
        client(server.url_of("the_mail")) as mail,
    ):
        for topic in ("shop-ms", "mail-ms", "others-ms"):
            operator.xgroup_create(f"cauce:{{{topic}}}:1", "mail-ms", mkstream=True)
            operator.xadd(f"cauce:{{{topic}}}:1", {"e": topic})
        operator.set("secret", "of another program")

        [[_, [[_, fields]]]] = mail.execute_command(*reading("shop-ms"))
        assert fields == ["e", "shop-ms"] or fields == {"e": "shop-ms"}
        for user, topics in ((shop, ("mail-ms", "others-ms")), (mail, ("others-ms",))):
            for topic in topics:
                refused(user, *reading(topic))
                refused(user, "XRANGE", f"cauce:{{{topic}}}:1", "-", "+")
                refused(user, "HGETALL", f"cauce:{{{topic}}}:groups")
            refused(user, "GET", "secret")


def reading(topic: str) -> tuple[str, ...]:
    return ("XREADGROUP", "GROUP", "mail-ms", "lane", "COUNT", "1", "STREAMS", f"cauce:{{{topic}}}:1", ">")


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL", "CONFIG GET requirepass", "KEYS *", "SCAN 0", "EVAL return 0", "ACL LIST", "ACL SETUSER x on", "INFO",
        "SHUTDOWN", "SAVE", "MONITOR", "CLIENT LIST", "SELECT 1", "DEL cauce:{shop-ms}:0",
        "PUBLISH a b", "SUBSCRIBE a", "XGROUP DESTROY cauce:{shop-ms}:0 mail-ms",
    ],
)  # fmt: skip
def test_no_service_administers_the_broker(server: ValkeyServer, command: str) -> None:
    for name in ("shop", "the_mail"):
        with client(server.url_of(name)) as user:
            refused(user, *command.split())


def test_every_user_has_a_password_of_its_own_which_no_file_but_one_holds(server: ValkeyServer) -> None:
    passwords = {server.password, *(server.kept.secret(f"user {name}") for name in ("shop", "the_mail"))}
    assert len(passwords) == 3
    with pytest.raises(redis.AuthenticationError), client(server.url_of("shop").replace("shop:", "the_mail:")) as thief:
        thief.ping()
    for nobody in ("", "default:@", "anybody:@"):
        refusal = pytest.raises((redis.AuthenticationError, redis.ResponseError))
        with refusal, client(f"redis://{nobody}{server.address}") as stranger:
            stranger.ping()

    assert server.url_of("shop").startswith("redis://shop:")
    with pytest.raises(KeyError):
        server.url_of("the-mail")
    files = [file for file in server.folder.rglob("*") if file.is_file()]
    assert server.folder / "users.acl" in files
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
        held = {password for password in passwords if password.encode() in file.read_bytes()}
        assert held == (passwords if file.name == "kept.json" else set()), file


def test_the_passwords_are_those_of_the_run_before_and_a_service_that_is_gone_has_no_user(
    project: Project, servers_folder: Path
) -> None:
    folder = servers_folder / "users-twice"
    users = {user.name: user.rights for user in make_plan(project, {}).users.values()}
    first = ValkeyServer(folder, users=users)
    first.start()
    urls = [first.url_of("shop"), first.url_of("the_mail")]
    first.stop()

    second = ValkeyServer(folder, users={"shop": users["shop"]})
    second.start()
    try:
        assert second.url_of("shop") == urls[0]
        with client(urls[0]) as shop, client(second.url) as operator:
            assert shop.ping()
            assert operator.acl_users() == ["default", "shop"]
        with pytest.raises(redis.AuthenticationError), client(urls[1]) as mail:
            mail.ping()
    finally:
        second.kill()


# --- what the project and the environment say ---------------------------------------------------------------------


def rights_of(project: Project, **environment: str) -> dict[str, str]:
    return {variable: " ".join(user.rights.words()) for variable, user in make_plan(project, environment).users.items()}


def test_the_rights_are_those_that_the_transport_writes_out(project: Project) -> None:
    transport = RedisStreams("redis://localhost")
    assert rights_of(project) == {
        "SHOP_REDIS_URL": " ".join(transport.rights(publishes="shop-ms")),
        "MAIL_REDIS_URL": " ".join(transport.rights(publishes="mail-ms", hears=["shop-ms"])),
    }


def test_a_bridge_adopts_for_what_it_hears_and_speaks_in_channels(project: Project) -> None:
    assert rights_of(project, BRIDGE="off") == rights_of(project)
    said = rights_of(project, BRIDGE="on")
    for rights in said.values():
        assert "&* " in rights
        assert "+publish" in rights
    writing, _, hearing = said["MAIL_REDIS_URL"].partition("(")
    for words in (writing, hearing):
        assert "~cauce:{mail-ms}:* ~cauce:{shop-ms}:*" in words
    writing, _, hearing = said["SHOP_REDIS_URL"].partition("(")
    assert (writing.count("~"), hearing.count("~")) == (1, 1), "its own topic, to tell NestJS of it"


def test_pubsub_has_channels_and_no_keys(project: Project) -> None:
    for rights in rights_of(project, EVENTS="pubsub").values():
        assert rights == "-@all &* +ping +psubscribe +publish +subscribe"


def test_a_service_whose_url_is_given_by_hand_gets_no_user(project: Project) -> None:
    assert list(rights_of(project, SHOP_REDIS_URL="redis://mine")) == ["MAIL_REDIS_URL"]
    both = make_plan(project, {"SHOP_REDIS_URL": "redis://mine", "MAIL_REDIS_URL": "redis://mine"})
    assert both.servers == ()
    assert both.elsewhere == {"valkey": "the variables of the services' own users"}
    elsewhere = make_plan(project, {"REDIS_HOST": "mine"})
    assert (elsewhere.servers, elsewhere.users) == ((), {})


async def test_the_system_tells_every_service_its_url_in_the_state_file(project: Project) -> None:
    async with DevSystem(project, environment={}, only_servers=True) as system:
        state = (project.folder / "dev.env").read_text()
        for variable, name, topic in (("SHOP_REDIS_URL", "shop", "shop-ms"), ("MAIL_REDIS_URL", "the_mail", "mail-ms")):
            url = system.variables[variable]
            assert f"{variable}={url}\n" in state
            with client(url) as user:
                assert user.xadd(f"cauce:{{{topic}}}:0", {"e": "x"})
                assert url.startswith(f"redis://{name}:")
        acl = project.folder / "data" / "valkey" / "users.acl"
        assert stat.S_IMODE(acl.stat().st_mode) == 0o600


def test_commands_are_the_operators_user_and_a_service_s_own_where_there_is_no_other(tmp_path: Path) -> None:
    text = PYPROJECT.replace('source = "shop-ms"', 'source = "shop-ms"\ndatabase = "SHOP_DATABASE_URL"')
    written(tmp_path, text)
    own, shared = {"SHOP_REDIS_URL": "redis://shop:x@h"}, {"REDIS_HOST": "h", "REDIS_PASS": "y"}
    given = {"CAUCE_ENV_FILE": "", "SHOP_DATABASE_URL": "sqlite:///shop.sqlite"}

    def broker(**environ: str) -> tuple[str, str]:
        [target] = find_targets(environ={**given, **environ}, folder=tmp_path)
        return target.broker.url, target.broker.origin

    assert broker(**own, **shared) == ("redis://:y@h:6379", "REDIS_HOST (environment)")
    assert broker(**own) == ("redis://shop:x@h", "SHOP_REDIS_URL (environment)")
    assert broker() == ("redis://localhost:6379", "default")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('source = "shop-ms"\n', "", 'shop has a broker and no source, as in source = "shop-ms".'),
        ('"shop-ms"\n', '"shop ms"\n', "source = 'shop ms': use letters, digits, dots, - and _."),
        ('["shop-ms"]', '["*"]', "hears = ['*']: expected names of services"),
        ('["shop-ms"]', '"shop-ms"', "hears = 'shop-ms': expected names of services"),
        ("MAIL_REDIS_URL", "SHOP_REDIS_URL", "SHOP_REDIS_URL is the user at the broker of shop already"),
        ("MAIL_REDIS_URL", "redis://", "expected the name of an environment variable, as in \"THE_MAIL_REDIS_URL\""),
        ("services.shop]", "services.default]", "default: another user is called default. Call it otherwise."),
        (
            '[tool.cauce.dev.services.shop]\n',
            '[tool.cauce.dev.services.postgres]\ndatabase = "SHOP_DATABASE_URL"\n',
            "postgres: another user is called postgres. Call it otherwise.",
        ),
        ("services.shop]", "services.the_mail]", "the-mail: another user is called the_mail. Call it otherwise."),
        ("BRIDGE=on", "BRIDGE", "bridge_if = 'BRIDGE': expected a variable and its value"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_project_is_told(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert before in PYPROJECT
    with pytest.raises(ConfigurationError) as error:
        written(tmp_path, PYPROJECT.replace(before, after))
    assert said in str(error.value)
