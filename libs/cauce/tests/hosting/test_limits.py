"""What may be set, and how many connections the system's limit of open files leaves."""

import pytest
from cauce import ConfigurationError
from cauce.hosting import HttpLimits
from cauce.hosting.descriptors import connections_within


def test_limits_that_make_no_sense_are_all_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as refused:
        HttpLimits(headers_s=0, body_s=float("nan"), request_s=float("inf"), keep_alive_s=-1, connections=0)
    assert len(refused.value.problems) == 5
    assert "HttpLimits(headers_s=0): a number of seconds above 0 is expected" in refused.value.problems
    assert "HttpLimits(connections=0): at least 1 connection is expected" in refused.value.problems


def test_a_request_without_a_limit_is_allowed() -> None:
    assert HttpLimits(request_s=None).request_s is None


@pytest.mark.parametrize(
    ("open_files", "wanted", "held"),
    [(None, 1000, 1000), (1 << 20, 1000, 1000), (1024, 1000, 896), (256, 1000, 128), (64, 1000, 32), (1, 1000, 1)],
)
def test_some_descriptors_are_kept_from_the_connections(open_files: int | None, wanted: int, held: int) -> None:
    assert connections_within(open_files, wanted) == held
