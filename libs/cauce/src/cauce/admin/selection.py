"""Select items in several databases by id, id prefix or filter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from cauce.admin.targets import Target
from cauce.errors import CauceError

__all__ = ["AmbiguousIdError", "Selectable", "Selection", "UnclearError", "UnknownIdError"]


class Selectable(Protocol):
    """Something with an id. `target` is where it is; `short` the beginning that means no other; `about` what it is."""

    @property
    def target(self) -> Target: ...
    @property
    def id(self) -> str: ...
    @property
    def short(self) -> str: ...
    @property
    def about(self) -> str: ...


T = TypeVar("T", bound=Selectable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(Generic[T]):
    """What was found, by service. `unreachable`: why the other databases could not be asked."""

    by_service: Mapping[str, Sequence[T]]
    unreachable: Mapping[str, str]

    @property
    def everything(self) -> Sequence[T]:
        return [one for several in self.by_service.values() for one in several]


class UnclearError(CauceError):
    """It is not clear what is meant; the message says what there is. Nothing was done."""


class AmbiguousIdError(UnclearError):
    """The beginning of an id means more than one."""

    def __init__(self, prefix: str, candidates: Sequence[Selectable]) -> None:
        super().__init__(f"{prefix} begins several: {', '.join(one.short for one in candidates)}. Write more of it.")


class UnknownIdError(CauceError):
    """Nothing has an id that begins so. `unreachable`: why some databases could not be asked."""

    def __init__(self, message: str, *, unreachable: Sequence[str]) -> None:
        super().__init__(message)
        self.unreachable = unreachable
