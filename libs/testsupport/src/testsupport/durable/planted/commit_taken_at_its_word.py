"""A commit is believed when it is asked for: neither the transaction's state nor the database's answer is looked at."""

from unittest.mock import patch

from cauce.stores.sql import engine
from cauce.stores.sql.watching import Watch
from sqlalchemy import Dialect


def plant() -> None:
    def check(self: Watch) -> None:
        pass

    def read_nothing(dialect: Dialect) -> None:
        pass

    Watch.check = check
    patch.object(engine, "read_outcome_of_commits", read_nothing).start()
