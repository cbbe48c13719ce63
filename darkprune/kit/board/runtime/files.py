"""Reading and writing whole files; what is written appears complete or not at all."""

import hashlib
import os
import tempfile
from typing import Any

from . import RuntimeFailure

_CHUNK = 1 << 20


def read_bytes(path: str) -> bytes:
    """The content of a file.

    Raises:
        RuntimeFailure: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise RuntimeFailure("{}: cannot be read ({})".format(path, error.strerror)) from None


def write_atomic(path: str, content: Any) -> None:
    """Write a buffer to a file beside the target and rename it.

    Raises:
        RuntimeFailure: it cannot be written; what was there before is still there.
    """
    folder = os.path.dirname(os.path.abspath(path))
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".", suffix=".part", dir=folder)
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
    """Hexadecimal SHA-256 of a file.

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


def make_folder(path: str) -> None:
    """Make a folder where there is none.

    Raises:
        RuntimeFailure: it cannot be made.
    """
    try:
        if not os.path.isdir(path):
            os.makedirs(path)
    except OSError as error:
        raise RuntimeFailure("{}: cannot be made ({})".format(path, error.strerror)) from None
