"""Trouble with the database counts as a failure of the listener."""

from cauce.delivery.inbox.transactions import InboxTransactions


def plant() -> None:
    def is_infrastructure(self: InboxTransactions, error: BaseException) -> bool:
        return False

    InboxTransactions.is_infrastructure = is_infrastructure
