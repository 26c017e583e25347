"""What a look at something outside found: fit to be shown to a person, and to stop a start."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["State", "Verdict"]

State = Literal["good", "weak", "bad", "unknown"]
"""`weak`: it works, and something can be lost that need not be. `bad`: it must not be run like this. `unknown`: we
were not permitted to look."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`subject` is what was looked at, `fact` what was seen, `fix` one command or setting; empty when all is well.
    `refused`: a service does not start beside this."""

    subject: str
    state: State
    fact: str
    fix: str = ""
    refused: bool = False
