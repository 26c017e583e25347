"""Nothing goes wrong: everything committed is applied, in order, once; on both databases."""

import pytest
from testsupport.durable.harness import World


@pytest.fixture(params=["world", "world_on_sqlite"])
def any_world(request: pytest.FixtureRequest) -> World:
    return request.getfixturevalue(request.param)


def test_what_is_committed_is_applied_once_and_in_order(any_world: World) -> None:
    any_world.consumer()
    any_world.producer(200)
    any_world.written(200)

    final = any_world.converges()

    assert len(final.ledger) == 200
