"""Records: what a step of a cell came to, with the hash of everything that decided it."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from darkprune import __version__
from darkprune.darknet.output import atomic_file, result_folder
from darkprune.errors import DarkpruneError

NAME = "record.json"  #: of a step that leaves a folder
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Record:
    """What a step came to.

    Attributes:
        key: hash of what decided it.
        result: figures.
        seconds: that it took.
        error: why there is no result.
        trace: where it happened, if that was no error of the input.
    """

    key: str
    result: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    trace: str | None = None


class StepError(DarkpruneError):
    """A step failed, now or earlier; its record says why."""


def key_of(step: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Returns the hash of a step's settings and of what it reads."""
    text = json.dumps([__version__, step, dict(settings), dict(inputs)], sort_keys=True)
    return sha256(text.encode()).hexdigest()


def read_record(path: Path) -> Record | None:
    """Reads a record; None where there is none that can be read: the step is then done again."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        data = json.loads(raw) if len(raw) <= MAX_BYTES else {}
        record = Record(**data)
        return record if isinstance(record.key, str) and isinstance(record.result, dict) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def fill_folder(folder: Path, key: str, fill: Callable[[Path], dict[str, Any]]) -> Record:
    """Does a step that leaves a folder, unless its record has the key.

    Args:
        folder: takes its place as a whole.
        key: hash of what decides the result.
        fill: writes files to the folder that it is given, and returns figures.

    Raises:
        StepError: it failed, now or in an earlier attempt of this run.
    """
    known = _known(folder / NAME, key)
    if known is not None:
        return known
    began = time.perf_counter()
    try:
        with result_folder(folder, [], overwrite=True) as out:
            record = Record(key, fill(out), round(time.perf_counter() - began, 3))
            (out / NAME).write_bytes(_encoded(record))
    except Exception as error:
        raise _failed(folder / NAME, key, error, began) from None
    return record


def fill_file(path: Path, key: str, work: Callable[[], dict[str, Any]]) -> Record:
    """Does a step that leaves figures alone, unless its record has the key; see `fill_folder`."""
    known = _known(path, key)
    if known is not None:
        return known
    began = time.perf_counter()
    try:
        record = Record(key, work(), round(time.perf_counter() - began, 3))
    except Exception as error:
        raise _failed(path, key, error, began) from None
    _write(path, record)
    return record


def forget_failure(path: Path) -> None:
    """Removes the record of a step that failed, so that it is tried again."""
    record = read_record(path)
    if record is not None and record.error is not None:
        path.unlink(missing_ok=True)


def _known(path: Path, key: str) -> Record | None:
    record = read_record(path)
    if record is None or record.key != key:
        return None
    if record.error is not None:
        raise StepError(record.error)
    return record


def _failed(path: Path, key: str, error: Exception, began: float) -> StepError:
    """Keeps why a step failed: it is a row of the table, not the end of the run."""
    expected = isinstance(error, DarkpruneError)
    said = str(error) if expected else f"{type(error).__name__}: {error}"
    trace = None if expected else "".join(traceback.format_exception(error))
    _write(path, Record(key, {}, round(time.perf_counter() - began, 3), " ".join(said.split()), trace))
    return StepError(" ".join(said.split()))


def _write(path: Path, record: Record) -> None:
    with atomic_file(path, overwrite=True) as file:
        file.write(_encoded(record))


def _encoded(record: Record) -> bytes:
    return (json.dumps(asdict(record), indent=1) + "\n").encode()
