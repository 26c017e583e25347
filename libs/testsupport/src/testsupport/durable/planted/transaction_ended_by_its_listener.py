"""A listener may commit or roll back the transaction that its inbox row is in."""

from cauce.publishing.units_of_work import OpenTransaction, UnitsOfWork


def plant() -> None:
    transaction = UnitsOfWork.transaction

    def unguarded(self: UnitsOfWork, *, read_only: bool = False, guarded: bool = False) -> OpenTransaction:
        return transaction(self, read_only=read_only)

    UnitsOfWork.transaction = unguarded
