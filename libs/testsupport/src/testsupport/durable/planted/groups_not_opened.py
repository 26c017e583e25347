"""A `Reject` inside an exception group is an error like any other."""

from unittest.mock import patch

from cauce.delivery.inbox import failures
from cauce.listeners import retry


def plant() -> None:
    def only_itself(error: BaseException, wanted: type[BaseException]) -> BaseException | None:
        return error if isinstance(error, wanted) else None

    for module in (retry, failures):
        patch.object(module, "find_error", only_itself).start()
