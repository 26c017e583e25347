"""The text of an error goes into the database as it is."""

from unittest.mock import patch

from cauce.delivery.inbox import failures
from cauce.ports.inbox import Failure
from cauce.stores.sql import inbox


def plant() -> None:
    def line_as_it_is(text: str, **_limits: int) -> str:
        return text

    def failure_as_it_is(failure: Failure) -> Failure:
        return failure

    patch.object(inbox, "storable_line", line_as_it_is).start()
    patch.object(inbox, "storable_failure", failure_as_it_is).start()
    patch.object(failures, "describe_error", str).start()
