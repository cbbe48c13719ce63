"""Reading and writing whole files; what is written appears complete or not at all."""

import hashlib
import json
import os
import tempfile

from . import RuntimeFailure

_CHUNK = 1 << 20
_MOST_JSON = 16 << 20


def read_bytes(path: str, limit: int = 1 << 40) -> bytes:
    """Returns the content of a file.

    Raises:
        RuntimeFailure: it cannot be read, has more bytes than the limit, or is a pipe, which might never end.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise RuntimeFailure("{}: not a file".format(path))
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise RuntimeFailure("{}: too large".format(path))
            return file.read()
    except OSError as error:
        raise RuntimeFailure("{}: cannot be read ({})".format(path, error.strerror)) from None


def read_json(path: str, remedy: str) -> object:
    """Returns the content of a JSON file.

    Args:
        path: the file.
        remedy: what to do where it is none.

    Raises:
        RuntimeFailure: it cannot be read, is too large, nested too deeply or not JSON.
    """
    try:
        return json.loads(read_bytes(path, _MOST_JSON).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RuntimeFailure("{}: not JSON ({}), {}".format(path, str(error)[:80], remedy)) from None


def write_atomic(path: str, content: bytes) -> None:
    """Writes a buffer to a file, whole or not at all: beside it first, then renamed.

    Raises:
        RuntimeFailure: it is no regular file, or cannot be written; what was there before is still there.
    """
    check_file(path, overwrite=True)
    folder = os.path.dirname(os.path.abspath(path))
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".", suffix=".part", dir=folder)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise RuntimeFailure("{}: cannot be written ({})".format(path, error.strerror)) from None


def sha256_of(path: str) -> str:
    """Returns the hexadecimal SHA-256 of a file.

    Raises:
        RuntimeFailure: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(_CHUNK), b""):
                digest.update(chunk)
    except OSError as error:
        raise RuntimeFailure("{}: cannot be read ({})".format(path, error.strerror)) from None
    return digest.hexdigest()


def check_file(path: str, overwrite: bool) -> None:
    """Refuses to write a file that exists already, and ever to replace what is no regular file.

    Raises:
        RuntimeFailure: it is a folder, a link, a pipe or a device, or there and not to be replaced.
    """
    if os.path.isdir(path):
        raise RuntimeFailure("{}: is a folder; name a file".format(path))
    if os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path)):
        raise RuntimeFailure("{}: is a link, a pipe or a device, which is never replaced; name a file".format(path))
    if os.path.lexists(path) and not overwrite:
        raise RuntimeFailure("{}: exists; give --overwrite to replace it".format(path))


def make_folder(path: str, source: str, overwrite: bool) -> None:
    """Makes a folder for results.

    Args:
        path: of the folder.
        source: what is read, which must not lie in it.
        overwrite: whether it may hold files, which are replaced by results of the same name.

    Raises:
        RuntimeFailure: it is no folder, holds the source or other files, or cannot be made.
    """
    if os.path.islink(path) or (os.path.exists(path) and not os.path.isdir(path)):
        raise RuntimeFailure("{}: exists and is not a folder; choose another --out".format(path))
    if (os.path.realpath(source) + os.sep).startswith(os.path.join(os.path.realpath(path), "")):
        raise RuntimeFailure("{}: holds what is read; choose another --out".format(path))
    if os.path.isdir(path) and os.listdir(path) and not overwrite:
        raise RuntimeFailure("{}: exists and is not empty; give --overwrite to replace pictures in it".format(path))
    try:
        if not os.path.isdir(path):
            os.makedirs(path)
    except OSError as error:
        raise RuntimeFailure("{}: cannot be made ({})".format(path, error.strerror)) from None
