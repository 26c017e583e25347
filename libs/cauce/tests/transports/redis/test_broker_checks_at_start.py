"""What a service says about its broker when it starts, and beside which one it does not start."""

import logging
from pathlib import Path
from typing import Any, cast

import pytest
from cauce import IntegrationEvent, Service
from cauce.dev.ports import choose_port
from cauce.dev.servers import ValkeyServer
from cauce.errors import ConfigurationError
from cauce.stores.sqlalchemy import SqlAlchemyStore, create_engine
from cauce.transports.redis_streams import RedisStreams
from redis import Redis
from testsupport.redis_under_test import OtherServer


class Opened(IntegrationEvent, name="shop.opened", version=1, source="shop"):
    shop: str


def service(server: ValkeyServer, folder: Path, url: str | None = None) -> Service:
    store = SqlAlchemyStore(create_engine(f"sqlite+aiosqlite:///{folder}/shop.sqlite"))
    return Service("shop", store=store, transport=RedisStreams(url or server.url), publishes=[Opened])


def administrator(server: ValkeyServer) -> Any:
    return cast("Any", Redis).from_url(server.url)


async def test_h15_a_broker_that_throws_events_away_when_it_is_full_is_refused(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    with administrator(own_valkey) as admin:
        admin.config_set("maxmemory", "100mb")
        admin.config_set("maxmemory-policy", "allkeys-lru")

    with pytest.raises(ConfigurationError) as refused:
        async with service(own_valkey, tmp_path):
            pass

    (problem,) = refused.value.problems
    assert problem == (
        "eviction: allkeys-lru: a full server throws events away without a word. "
        "→ redis-cli CONFIG SET maxmemory-policy noeviction"
    )


async def test_the_same_broker_is_refused_when_it_comes_up_after_the_service(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    with administrator(own_valkey) as admin:
        admin.config_set("maxmemory", "100mb")
        admin.config_set("maxmemory-policy", "allkeys-lru")
    own_valkey.pause()
    try:
        with pytest.raises(ConfigurationError, match="allkeys-lru"):
            async with service(own_valkey, tmp_path) as running:
                assert running.readiness(), "it waits for its broker"
                own_valkey.resume()
                await running.stopped()
    finally:
        own_valkey.resume()


async def test_a_server_of_a_cluster_is_refused_with_the_reason(servers_folder: Path, tmp_path: Path) -> None:
    server = OtherServer(
        servers_folder / "of-a-cluster", settings=["cluster-enabled yes", f"cluster-port {choose_port()}"]
    )
    server.start()
    try:
        with pytest.raises(ConfigurationError, match=r"mode: the server is part of a cluster.* → a single server"):
            async with service(server, tmp_path):
                pass
    finally:
        server.kill()


async def test_a_broker_without_persistence_is_used_and_what_it_may_lose_is_logged(
    servers_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = OtherServer(servers_folder / "no-persistence", settings=["appendonly no", 'save ""'])
    server.start()
    try:
        with caplog.at_level(logging.WARNING):
            async with service(server, tmp_path) as running:
                assert running.readiness() == {}
    finally:
        server.kill()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("the broker: persistence: none: a restart of the server loses every event it holds.")
    assert "sent again as long as it is kept" in said


async def test_a_user_who_may_not_ask_is_believed(
    own_valkey: ValkeyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rights = RedisStreams(own_valkey.url).rights(publishes="shop")
    with administrator(own_valkey) as admin:
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">word", "resetchannels", *rights)
    url = f"redis://shop:word@127.0.0.1:{own_valkey.port}"

    with caplog.at_level(logging.WARNING):
        async with service(own_valkey, tmp_path, url) as running:
            assert running.readiness() == {}
    assert not caplog.records
