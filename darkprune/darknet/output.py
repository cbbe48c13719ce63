"""Writing results so that nothing is ever half-written, and nothing of the user's is lost.

What is in the making lies beside its place under a hidden name, and holds nothing that is not elsewhere too: a process
that is killed at any moment leaves the old state or the new one, and the next that writes there removes what it left.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from darkprune.errors import OutputError

PARTIAL = ".partial-"  #: in the hidden name of what is in the making


@contextmanager
def result_folder(target: Path, inputs: Sequence[Path], overwrite: bool = False) -> Iterator[Path]:
    """Gives a folder to fill, which takes the target's place as a whole when the block ends well.

    It is made beside the target, synchronised and renamed; a failure or Ctrl-C removes it and leaves the target as it
    was. With `overwrite`, what an earlier target has and the new one has not is carried over, at any depth.

    Args:
        target: the folder to be.
        inputs: files that must not lie in it.
        overwrite: whether it may exist and hold files.

    Yields:
        The folder to write to.

    Raises:
        OutputError: the target exists, holds an input, or cannot be written; the disk is full.
    """
    target = Path(os.path.abspath(target))
    check_folder(target, inputs, overwrite)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}{PARTIAL}", dir=target.parent))
        mark = _marked(partial)
    try:
        with _explained(target):
            os.chmod(partial, 0o777 & ~_umask())
            yield partial
            for path in partial.rglob("*"):
                _sync(path)
            _sync(partial)
            _put_in_place(partial, target)
            _sync(target.parent)
    finally:
        _remove_tree(partial)
        os.close(mark)


def check_folder(target: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Refuses a target before any work is done.

    Raises:
        OutputError: it exists and is not empty, is a file, holds an input, or its parent cannot be written.
    """
    with _explained(target):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise OutputError(f"{target}: exists and is not a folder; choose another -o")
        real = os.path.realpath(target)
        if Path(os.path.realpath(os.curdir)).is_relative_to(real):
            raise OutputError(
                f"{target}: is or holds the current folder, which cannot be replaced; name one in it: -o slim"
            )
        for path in inputs:
            if Path(os.path.realpath(path)).is_relative_to(real):
                raise OutputError(f"{target}: holds the input {path.name}; choose another folder with -o")
        if target.is_dir() and any(target.iterdir()) and not overwrite:
            raise OutputError(f"{target}: exists and is not empty; give --overwrite to replace an earlier result")
        parent = next(p for p in (target, *Path(os.path.abspath(target)).parents) if p.exists())
        if not parent.is_dir():
            raise OutputError(f"{target}: cannot be made, because {parent} is not a folder; choose another -o")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(f"{target}: cannot be written (no permission in {parent})")


@contextmanager
def atomic_file(path: Path, inputs: Sequence[Path] = (), overwrite: bool = False) -> Iterator[BinaryIO]:
    """Gives a binary file to write, which takes its place when the block ends well.

    Args:
        path: the file to be.
        inputs: files that it must not be.
        overwrite: whether it may exist.

    Raises:
        OutputError: it exists, is an input, or cannot be written.
    """
    path = Path(os.path.abspath(path))
    with _explained(path):
        _check_file(path, inputs, overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        number, name = tempfile.mkstemp(prefix=f".{path.name}{PARTIAL}", dir=path.parent)
        _lock(number)
    try:
        with _explained(path):
            os.chmod(name, 0o666 & ~_umask())
            with os.fdopen(number, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
            _sync(path.parent)
    finally:
        if os.path.exists(name):
            os.unlink(name)


@contextmanager
def checked_file(path: Path, inputs: Sequence[Path] = (), overwrite: bool = False) -> Iterator[Path]:
    """Gives a path to write to that is checked afterwards; what lies there takes its place when the block ends well.

    A second file that the block writes beside it, named `<its name>.<something>`, goes along.

    Args:
        path: the file to be.
        inputs: files that it must not be.
        overwrite: whether it may exist.

    Yields:
        A path of the same name in a room of its own, which is gone in the end.

    Raises:
        OutputError: it exists, is an input, or cannot be written.
    """
    path = Path(os.path.abspath(path))
    with _explained(path):
        _check_file(path, inputs, overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        room = tempfile.TemporaryDirectory(prefix=f".{path.name}{PARTIAL}", dir=path.parent)
    with room, _held(Path(room.name)):
        yield Path(room.name) / path.name
        # the file that names the other comes last
        parts = sorted(Path(room.name).iterdir(), key=lambda part: part.name == path.name)
        with _explained(path):
            for part in parts:
                _check_file(path.parent / part.name, inputs, overwrite)
            for part in parts:
                os.replace(part, path.parent / part.name)
            _sync(path.parent)


def _check_file(path: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    if any(os.path.realpath(path) == os.path.realpath(other) for other in inputs):
        raise OutputError(f"{path}: is an input; choose another -o")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file with -o")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists; give --overwrite to replace it")


def remove_leftovers(target: Path) -> None:
    """Removes what processes that were killed left beside a file or folder; what others are at work on stays.

    Args:
        target: the file or folder that they were to write.
    """
    _remove_leftovers(target.parent, re.escape(target.name))


def remove_leftovers_in(folder: Path) -> None:
    """Removes what processes that were killed left in a folder, whatever they were to write there."""
    _remove_leftovers(folder, ".+")


def _remove_leftovers(folder: Path, name: str) -> None:
    # as `tempfile` ends names: the user's own `.slim.partial-notes` is none
    left = re.compile(f"\\.{name}{re.escape(PARTIAL)}[a-z0-9_]{{8}}", re.DOTALL)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if left.fullmatch(entry.name)]:
            with suppress(OSError):
                number = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if not _lock(number):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        _remove_tree(Path(entry.path))
                    else:
                        os.unlink(entry.path)
                finally:
                    os.close(number)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    number = _marked(folder)
    try:
        yield
    finally:
        os.close(number)


def _marked(folder: Path) -> int:
    """Marks a folder as one that this process is at work on; returns what is to be closed at the end."""
    number = os.open(folder, os.O_RDONLY)
    _lock(number)
    return number


def _lock(number: int) -> bool:
    """Locks an open file or folder; returns whether no other process has it. Where there are no locks, nobody has."""
    try:
        import fcntl

        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return True
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _remove_tree(path: Path) -> None:
    """Removes a folder of darkprune's, as far as that is possible; write protection inside it is no obstacle."""

    def retry(function: Callable[[str], object], name: str, _: object) -> None:
        place = Path(name).parent
        if place.is_relative_to(path):
            with suppress(OSError):
                os.chmod(place, 0o700)
                function(name)

    shutil.rmtree(path, onerror=retry)


def _put_in_place(partial: Path, target: Path) -> None:
    """Puts a folder in another's place at one stroke; what only the other has is carried over before."""
    if not target.exists() or not any(target.iterdir()):
        os.rename(partial, target)  # an empty folder gives way
        return
    _carry_over(target, partial)
    _exchange(partial, target)
    try:
        _carry_over(partial, target)  # what came in between
    except BaseException:
        _exchange(partial, target)
        raise


def _carry_over(old: Path, new: Path) -> None:
    """Gives a folder what another one has and it has not, as hard links: nothing is away at any time.

    Raises:
        OutputError: something can be carried over in no way; the old folder is as it was.
    """
    for entry in list(os.scandir(old)):
        place = new / entry.name
        there = os.path.lexists(place)
        if not entry.is_dir(follow_symlinks=False):
            if there and place.is_dir() and not place.is_symlink():
                raise OutputError(f"{entry.path}: lies where a folder is to be written; move it away")
            if not there:
                _link(entry.path, place)
            continue
        if os.path.ismount(entry.path):
            raise OutputError(f"{entry.path}: is a mount point, which cannot be carried over; choose another -o")
        if not os.access(entry.path, os.W_OK | os.X_OK) and os.geteuid() != entry.stat().st_uid:
            raise OutputError(f"{entry.path}: belongs to another user and cannot be carried over; choose another -o")
        if there and (place.is_symlink() or not place.is_dir()):
            raise OutputError(f"{entry.path}: is a folder where a file is to be written; move it away")
        if not there:
            place.mkdir()
        _carry_over(Path(entry.path), place)
        if not there:
            shutil.copystat(entry.path, place)
            found = entry.stat(follow_symlinks=False)
            with suppress(OSError):  # only root may give folders away
                os.chown(place, found.st_uid, found.st_gid)


def _link(source: str, place: Path) -> None:
    """Makes a hard link, or a copy where that is not possible."""
    try:
        os.link(source, place, follow_symlinks=False)
    except OSError:
        if os.path.islink(source):
            os.symlink(os.readlink(source), place)
        elif os.path.isfile(source):
            shutil.copy2(source, place)
        else:
            raise


def _exchange(first: Path, second: Path) -> None:
    """Lets two folders change places: at once where the system can (Linux), else one after the other."""
    import ctypes  # 5 ms that only a replacement costs

    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is not None:
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if swap(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise OSError(number, os.strerror(number))
    room = Path(tempfile.mkdtemp(prefix=f".{second.name}.earlier-", dir=second.parent))
    try:
        os.rename(second, room / "earlier")
        try:
            os.rename(first, second)
        except BaseException:
            os.rename(room / "earlier", second)
            raise
        os.rename(room / "earlier", first)
    finally:
        room.rmdir()


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turns the operating system's refusals into one line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutputError(f"{target}: the disk is full; nothing was left behind") from None
        if error.errno in (errno.EBUSY, errno.EXDEV):
            raise OutputError(f"{target}: cannot be replaced (a mount point?); choose a folder below it") from None
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from None
