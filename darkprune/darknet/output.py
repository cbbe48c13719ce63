"""Writing results so that nothing is ever half-written, and nothing of the user's is lost.

What is in the making lies beside its place under a hidden name, and holds nothing that is not elsewhere too: a process
that is killed at any moment leaves the old state or the new one, and the next that writes there removes what it left.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from darkprune.darknet.leftovers import PARTIAL, held, lock, remove_leftovers, remove_tree
from darkprune.errors import OutputError

LOCK = ".lock"  #: file that a process holds while it works in a folder, see `darkprune.runs.lock`


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
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}{PARTIAL}", dir=target.parent))
    try:
        with _explained(target), held(partial):
            _refuse_others(target, partial.name)
            os.chmod(partial, 0o777 & ~_umask())
            yield partial
            for path in partial.rglob("*"):
                _sync(path)
            _sync(partial)
            check_folder(target, inputs, overwrite)  # again: it may have come to be meanwhile
            _put_in_place(partial, target)
            _sync(target.parent)
    finally:
        remove_tree(partial)


def check_folder(target: Path, inputs: Sequence[Path], overwrite: bool, *, in_use: bool = False) -> None:
    """Refuses a target before any work is done.

    Args:
        target: the folder to be.
        inputs: files that must not lie in it.
        overwrite: whether it may exist and hold files.
        in_use: whether another process may hold its lock, which the caller takes later.

    Raises:
        OutputError: it exists and is not empty, is a file, holds an input, another process is at work in it, or its
            parent cannot be written.
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
        if target.is_dir() and any(path.name != LOCK for path in target.iterdir()) and not overwrite:
            raise OutputError(f"{target}: exists and is not empty; give --overwrite to replace an earlier result")
        if not in_use and _in_use(target):
            raise OutputError(f"{target}: another darkprune is at work in it")
        parent = next(p for p in (target, *Path(os.path.abspath(target)).parents) if p.exists())
        if not parent.is_dir():
            raise OutputError(f"{target}: cannot be made, because {parent} is not a folder; choose another -o")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(f"{target}: cannot be written (no permission in {parent})")


def _in_use(folder: Path) -> bool:
    try:
        with held(folder / LOCK) as taken:
            return not taken
    except OSError:
        return False


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
        lock(number)
    try:
        with _explained(path):
            os.chmod(name, 0o666 & ~_umask())
            with os.fdopen(number, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _check_file(path, inputs, overwrite)  # again: it may have come to be meanwhile
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
        A path of the same name in a temporary folder beside it.

    Raises:
        OutputError: it exists, is an input, or cannot be written.
    """
    path = Path(os.path.abspath(path))
    with _explained(path):
        _check_file(path, inputs, overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}{PARTIAL}", dir=path.parent)
    with folder, held(Path(folder.name)):
        yield Path(folder.name) / path.name
        # the file that names the other comes last
        parts = sorted(Path(folder.name).iterdir(), key=lambda part: part.name == path.name)
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
    if os.path.lexists(path) and not (path.is_file() and not path.is_symlink()):
        raise OutputError(f"{path}: is a link, a pipe or a device, which is never replaced; name a file with -o")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists; give --overwrite to replace it")


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Keeps other processes that do the same from writing a file, for work whose result is written at its end.

    Args:
        target: the file to be.

    Raises:
        OutputError: another process is at work on it, or nothing can be written there.
    """
    target = Path(os.path.abspath(target))
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=f".{target.name}{PARTIAL}", dir=target.parent)
        lock(number)
    try:
        _refuse_others(target, Path(name).name)
        yield
    finally:
        os.unlink(name)
        os.close(number)


def _refuse_others(target: Path, own: str) -> None:
    """Removes leftovers, and refuses to go on where another process is at work on the same file or folder.

    Args:
        target: the file or folder.
        own: name of what this process has in the making.

    Raises:
        OutputError: there is another one.
    """
    if remove_leftovers(target) - {own}:
        raise OutputError(f"{target}: another darkprune is about to write it")


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
            if there and place.is_file() and not place.is_symlink() and not entry.is_file(follow_symlinks=False):
                raise OutputError(f"{entry.path}: is a link, a pipe or a device, which is never replaced; move it away")
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
    aside = Path(tempfile.mkdtemp(prefix=f".{second.name}.earlier-", dir=second.parent))
    try:
        os.rename(second, aside / "earlier")
        try:
            os.rename(first, second)
        except BaseException:
            os.rename(aside / "earlier", second)
            raise
        os.rename(aside / "earlier", first)
    finally:
        aside.rmdir()


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
