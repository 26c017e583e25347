"""Trouble with the database counts as a failure of the listener."""

from cauce import Service


def plant() -> None:
    def is_infrastructure(self: Service, error: BaseException) -> bool:
        return False

    Service.is_infrastructure = is_infrastructure
