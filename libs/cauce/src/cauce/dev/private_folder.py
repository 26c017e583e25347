"""A project's `.cauce` folder: data, logs and passwords of this machine, for its owner alone and never in git."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from cauce.settings.sources import STATE_FILE

__all__ = ["NAME", "let_through", "make_file", "make_folder", "outermost", "restrict", "tighten"]

NAME: Final = STATE_FILE.parts[0]
_IGNORE: Final = "# Made by cauce: data, logs and passwords of this machine. Nothing here belongs into git.\n*\n"

# Search alone (711) gives nothing away that is not named, and PostgreSQL needs it where root starts it as another user.
_WIDE: Final = 0o066


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it.

    In a project's `.cauce` the folders from there on get mode 700, also those that were wider, and a `.gitignore` of
    everything; elsewhere the umask decides, as it does for every program. Raises OSError.
    """
    private = list(_private_part(folder))
    if not private:
        folder.mkdir(parents=True, exist_ok=True)
        return
    private[0].parent.mkdir(parents=True, exist_ok=True)
    for each in private:
        each.mkdir(mode=0o700, exist_ok=True)
        restrict(each)
        if each.name == NAME:
            _ignore_all_of(each)


def make_file(file: Path) -> None:
    """Make its folder; and in a project's `.cauce` an empty file of mode 600, before a driver makes it readable to all.

    A file that is there keeps what is in it. Raises OSError.
    """
    make_folder(file.parent)
    if outermost(file) is not None:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        restrict(file)


def tighten(folder: Path) -> None:
    """Take from others what they may read or write in `folder`: an earlier version, or an umask, let them."""
    restrict(folder)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            restrict(Path(place, name))


def restrict(path: Path) -> None:
    """Leave a file or folder to its owner, if others may read or write it. What is not ours stays as it is."""
    with suppress(FileNotFoundError, PermissionError):  # gone meanwhile; somebody else's
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if mode & _WIDE and found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode):
            path.chmod(mode & 0o700)


def let_through(folder: Path) -> None:
    """Let other accounts pass through `folder`, and what of the project's `.cauce` is above it, without reading there."""
    for each in _private_part(folder) if outermost(folder) else [folder]:
        each.chmod(stat.S_IMODE(each.stat().st_mode) | 0o011)


def outermost(path: Path) -> Path | None:
    """The `.cauce` that `path` is or lies in: the outermost one, since a demo has a project in its own; else None."""
    return next(_private_part(path), None)


def _private_part(path: Path) -> Iterator[Path]:
    """`path` and the folders above it, from the outermost `.cauce` down; none outside of one."""
    absolute = Path(os.path.abspath(path))
    return (each for each in (*reversed(absolute.parents), absolute) if NAME in each.parts)


def _ignore_all_of(folder: Path) -> None:
    with suppress(FileExistsError):  # a person's own is left alone
        descriptor = os.open(folder / ".gitignore", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.write(descriptor, _IGNORE.encode())
        os.close(descriptor)


if __name__ == "__main__":  # for the scripts of a repository, which have no other way to make it
    make_folder(Path(sys.argv[1]))
