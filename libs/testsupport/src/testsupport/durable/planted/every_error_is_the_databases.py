"""Whatever a database says to a listener counts as trouble with it, and costs no attempt."""

from cauce.delivery.inbox.transactions import InboxTransactions, OutOfListenerError
from sqlalchemy.exc import DBAPIError


def plant() -> None:
    judge = InboxTransactions.is_infrastructure

    def is_infrastructure(self: InboxTransactions, error: BaseException) -> bool:
        if isinstance(error, OutOfListenerError) and isinstance(error.error, DBAPIError):
            return True
        return judge(self, error)

    InboxTransactions.is_infrastructure = is_infrastructure
