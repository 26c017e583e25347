"""`cauce run MODULE:BUILD`: a service without its door, in a process of its own."""

import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from cauce.dev.ports import choose_port
from cauce.dev.servers import ValkeyServer
from testsupport.shop_and_mail import Command, Project

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"])

SHOP = """
import os
from cauce import IntegrationEvent, Service
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from pydantic import Field
from pydantic_settings import BaseSettings

class Settings(BaseSettings):
    shop_database_url: str
    redis_url: str = Field("redis://localhost")

class Sold(IntegrationEvent, name="shop.sold", version=1, source="shop-ms"):
    number: int

def build(settings: Settings) -> tuple[Service, str]:
    store = SqlAlchemyStore(create_engine(settings.shop_database_url))
    return Service("shop-ms", store=store, transport=RedisStreams(settings.redis_url), publishes=[Sold]), "the application"

def needs_more(number: int) -> Service: ...

nothing = 7
"""


async def test_a_service_runs_without_its_door_until_a_signal(
    project: Project, broker: ValkeyServer, cauce: Command
) -> None:
    (project.folder / "shop_apart.py").write_text(SHOP)
    command = [sys.executable, "-c", "import sys; from cauce.cli import main; sys.exit(main())"]
    port = choose_port()
    with subprocess.Popen(  # noqa: ASYNC220  # it runs beside this loop, which waits for nothing meanwhile
        [*command, "run", "shop_apart:build", "--health-port", str(port)],
        cwd=project.folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _get(f"http://127.0.0.1:{port}/health/ready", within_s=60)
            body = _get(f"http://127.0.0.1:{port}/status", within_s=5)
            said = await cauce("status", "shop", "--json")
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert b'"service": "shop-ms"' in body
    assert said.json["shop"]["service"] == "shop-ms"
    assert "shop-ms is ready" in errors


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("shop_apart", "'shop_apart' names no service. Expected MODULE:BUILD, as in accounts.main:build"),
        ("shop_apert:build", "there is no module 'shop_apert'. Did you mean 'shop_apart'?"),
        ("shop_apart:biuld", "shop_apart has no 'biuld'. Did you mean 'build'?"),
        ("shop_apart:nothing", "shop_apart:nothing gives a int; expected a Service, or a tuple that begins with one"),
        (
            "shop_apart:needs_more",
            "shop_apart:needs_more wants 'number', and only a class of settings can be filled in. Name a function without it",
        ),
    ],
)
async def test_what_is_no_service_is_answered_in_one_line(
    project: Project, cauce: Command, monkeypatch: pytest.MonkeyPatch, target: str, answer: str
) -> None:
    (project.folder / "shop_apart.py").write_text(SHOP)
    monkeypatch.setattr(sys, "path", [str(project.folder), *sys.path])
    monkeypatch.delitem(sys.modules, "shop_apart", raising=False)

    said = await cauce("run", target)

    sys.modules.pop("shop_apart", None)
    assert said.code == 2
    assert said.err == f"cauce run: {answer}\n"


def _get(url: str, *, within_s: float) -> bytes:
    deadline = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
