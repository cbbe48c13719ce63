"""What processes have in the making, and the removal of what those that were killed left.

A hidden file or folder beside the result, or a temporary folder, is locked by the process that works on it. Its lock
ends with the process, however that ends; what nobody holds any more is a leftover.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

PARTIAL = ".partial-"  #: in the hidden name of what is in the making
TEMPORARY = "darkprune-"  #: what names of temporary folders begin with
OWNER = ".owner"  #: file in a temporary folder, which the process that made it holds


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder that a later process removes where this one is killed.

    Attributes:
        path: of the folder.
    """

    def __init__(self) -> None:
        """Makes the folder; removes those that killed processes left."""
        remove_abandoned(tempfile.gettempdir())
        super().__init__(prefix=TEMPORARY)
        self.path = Path(self.name)
        begun = self.path / f"{OWNER}.new"
        self._owner = begun.open("wb")  # closed with the object
        lock(self._owner.fileno())
        begun.rename(self.path / OWNER)  # so that nobody ever sees it without its lock

    def cleanup(self) -> None:
        """Removes the folder."""
        super().cleanup()
        self._owner.close()


@cache
def remove_abandoned(place: str) -> None:
    """Removes temporary folders of this user that killed processes left; once in a process.

    Args:
        place: the folder that they lie in.
    """
    name = re.compile(f"{re.escape(TEMPORARY)}[a-z0-9_]{{8}}")
    with suppress(OSError), os.scandir(place) as entries:
        for entry in [entry for entry in entries if name.fullmatch(entry.name)]:
            with suppress(OSError), held(Path(entry.path) / OWNER) as taken:
                mine = entry.stat(follow_symlinks=False).st_uid == os.geteuid()
                if taken and mine and entry.is_dir(follow_symlinks=False):
                    remove_tree(Path(entry.path))


def remove_leftovers(target: Path) -> set[str]:
    """Removes what processes that were killed left beside a file or folder; what others are at work on stays.

    Args:
        target: the file or folder that they were to write.

    Returns:
        Names of what others are at work on.
    """
    return _remove_leftovers(target.parent, re.escape(target.name))


def remove_leftovers_in(folder: Path) -> None:
    """Removes what processes that were killed left in a folder, whatever they were to write there."""
    _remove_leftovers(folder, ".+")


def _remove_leftovers(folder: Path, name: str) -> set[str]:
    working = set[str]()
    # as `tempfile` ends names: the user's own `.slim.partial-notes` is none
    left = re.compile(f"\\.{name}{re.escape(PARTIAL)}[a-z0-9_]{{8}}", re.DOTALL)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if left.fullmatch(entry.name)]:
            with suppress(OSError), held(Path(entry.path)) as taken:
                if not taken:
                    working.add(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    remove_tree(Path(entry.path))
                else:
                    os.unlink(entry.path)
    return working


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Holds a file or folder, never one that a link names.

    Yields:
        Whether that was possible: whether no other process holds it.

    Raises:
        OSError: it cannot be opened.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield lock(number)
    finally:
        os.close(number)


def lock(number: int, shared: bool = False) -> bool:
    """Locks an open file or folder. Where there are no locks (on Windows, some network drives), nobody has it.

    Args:
        number: its descriptor.
        shared: whether others may hold it in the same way.

    Returns:
        Whether no other process has it.
    """
    try:
        import fcntl

        fcntl.flock(number, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except ImportError:
        return True
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def remove_tree(path: Path) -> None:
    """Removes a folder of darkprune's, as far as that is possible; write protection inside it is no obstacle."""

    def retry(function: Callable[[str], object], name: str, _: object) -> None:
        place = Path(name).parent
        if place.is_relative_to(path):
            with suppress(OSError):
                os.chmod(place, 0o700)
                function(name)

    shutil.rmtree(path, onerror=retry)
