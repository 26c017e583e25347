"""The unprivileged account a server runs under when we are root (PostgreSQL refuses to run as root)."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cauce.dev.errors import DevError

__all__ = ["Account", "unprivileged_account"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account of this machine, by number."""

    name: str
    uid: int
    gid: int

    def can_enter(self, folder: Path) -> bool:
        """Whether this account may make `folder` its working folder; asked of the system, not computed."""
        asked = subprocess.run(  # noqa: S603
            ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)],
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )
        return asked.returncode == 0

    def own(self, path: Path) -> None:
        """Hand one file or folder over to this account."""
        os.chown(path, self.uid, self.gid)


def unprivileged_account() -> Account | None:
    """`nobody` if we are root; None if we are not: then every server simply runs as we do.

    No account is ever created: a user left behind on the machine would be ours to explain.
    """
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise DevError(
            "PostgreSQL refuses to run as root, and this machine has no account 'nobody' to run it under. "
            "Run as an ordinary user, or use files instead: STORE=sqlite."
        ) from None
    return Account(name=nobody.pw_name, uid=nobody.pw_uid, gid=nobody.pw_gid)
