"""A NestJS service of each major version, one process for all tests."""

from collections.abc import AsyncGenerator, Iterator

import pytest
from cauce.dev.servers import ValkeyServer
from testsupport.nest_peers import VERSIONS, NestPeer, nest_peer, tell_progress


@pytest.fixture(scope="session", params=VERSIONS, ids=lambda version: f"nest{version}")
def nest_process(request: pytest.FixtureRequest, session_valkey: ValkeyServer) -> Iterator[NestPeer]:
    with nest_peer(request.param, session_valkey, tell_progress(request.config)) as peer:
        yield peer


@pytest.fixture
async def nest(nest_process: NestPeer, valkey: ValkeyServer) -> AsyncGenerator[NestPeer]:
    """The NestJS service of this version, deaf at the beginning and at the end."""
    nest_process.heard.clear()
    yield nest_process
    await nest_process.do("deafen")
    assert nest_process.unhandled == []
