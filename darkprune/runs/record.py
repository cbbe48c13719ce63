"""Records: what a piece of work gave, and everything that decided it.

A record counts only while everything that decided it is the same: the step, its settings, the content of what it
reads, and the program's version. These make its `key`; a record with another key is not used.

    origin = Origin("measure", plain(settings), {"cfg": file_input(cfg), "valid": Input("obj.data", digest)})
    record = fill_file(folder / "cells" / "uniform.json", origin, lambda: {"map50": measure()})

`fill_file` is for work that gives figures, `fill_folder` for work that leaves files: both do nothing where the record
is there, and keep a failure as well, so that one failed cell does not end a run.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from darkprune import __version__
from darkprune.darknet.output import result_folder
from darkprune.errors import DarkpruneError
from darkprune.json_types import JsonMapping
from darkprune.runs.digests import digest_of_file, plain
from darkprune.runs.json_file import JsonValue, encode_json, find_json, write_json

FORMAT = "darkprune-record/1"
NAME = "record.json"  #: of a step that leaves a folder
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Input:
    """Something that a step reads.

    Attributes:
        path: where it lay: absolute, or relative to the folder of the run where it is a part of that.
        sha256: digest of its content, see `darkprune.runs.digests`; or the key of the record that made it.
    """

    path: str
    sha256: str


@dataclass(frozen=True)
class Origin:
    """Everything that decides a result.

    Attributes:
        step: what is done ("cut", "train").
        settings: those that change the result, as JSON values (see `plain`).
        inputs: what is read, by role ("cfg", "weights", "valid").
        program: version of darkprune.
    """

    step: str
    settings: Mapping[str, object] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    program: str = __version__

    @property
    def key(self) -> str:
        """Digest of it all. The paths of inputs do not count, their content does."""
        digests = {role: entry.sha256 for role, entry in self.inputs.items()}
        parts = [self.program, self.step, plain(self.settings), digests]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a piece of work gave.

    Attributes:
        origin: what decided it.
        done: whether it was completed; else it was interrupted, or failed.
        result: figures.
        outputs: files that it made: path -> SHA-256.
        command: the command line that does the same, as words; empty where there is none.
        started: when its last session began, in seconds since the epoch.
        seconds: time taken, over all sessions.
        error: why there is no result.
        trace: where that happened, if it was no error of the input.
    """

    origin: Origin
    done: bool = True
    result: JsonMapping = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    started: float = 0.0
    seconds: float = 0.0
    error: str | None = None
    trace: str | None = None

    @property
    def key(self) -> str:
        """Digest of what decided it."""
        return self.origin.key

    def to_json(self) -> dict[str, object]:
        """Returns it as JSON values."""
        fields = {name: value for name, value in asdict(self).items() if name != "origin"}
        origin = asdict(self.origin)
        return {"step": origin.pop("step"), "darkprune": origin.pop("program"), **origin, **fields}

    @classmethod
    def from_json(cls, data: JsonValue) -> Record:
        """Reads what `to_json` gives.

        Raises:
            ValueError: it is no record.
        """
        named = [data[name] for name in ("settings", "inputs", "result", "outputs")]
        seconds, started, done = data["seconds"].number, data["started"].number, data["done"].value
        if not all(isinstance(part.value, dict) for part in named) or seconds is None or started is None:
            raise ValueError("not a record")
        if not (data["step"].text and data["darkprune"].text and isinstance(done, bool)):
            raise ValueError("not a record")
        settings, inputs, result, outputs = (part.fields for part in named)
        return cls(
            origin=Origin(
                data["step"].text,
                {name: entry.value for name, entry in settings.items()},
                {role: Input(entry["path"].text, entry["sha256"].text) for role, entry in inputs.items()},
                data["darkprune"].text,
            ),
            done=done,
            result={name: entry.value for name, entry in result.items()},
            outputs={name: entry.text for name, entry in outputs.items()},
            command=tuple(data["command"].texts),
            started=started,
            seconds=seconds,
            error=data["error"].text or None,
            trace=data["trace"].text or None,
        )


class StepError(DarkpruneError):
    """A step failed, now or earlier; its record says why."""


def file_input(path: Path) -> Input:
    """Returns a file as an input.

    Raises:
        OSError: it cannot be read.
    """
    return Input(path_text(path), digest_of_file(path))


def path_text(path: Path, folder: Path | None = None) -> str:
    """Returns a path as records have it: relative to the run's folder where it lies in it, else absolute."""
    absolute = Path(os.path.abspath(path))
    if folder is not None and absolute.is_relative_to(os.path.abspath(folder)):
        return absolute.relative_to(os.path.abspath(folder)).as_posix()
    return str(absolute)


def read_record(path: Path) -> Record | None:
    """Reads a record; None where there is none that can be read: the work is then done again."""
    data = find_json(path, MAX_BYTES)
    if data is None or data["format"].text != FORMAT:
        return None
    try:
        return Record.from_json(data)
    except ValueError:
        return None


def find_record(path: Path, key: str) -> Record | None:
    """Reads a record; None where there is none with this key."""
    record = read_record(path)
    return record if record is not None and record.key == key else None


def write_record(path: Path, record: Record) -> None:
    """Writes a record as a whole.

    Raises:
        OutputError: it cannot be written.
    """
    write_json(path, {"format": FORMAT, **record.to_json()})


def fill_file(path: Path, origin: Origin, work: Callable[[], Mapping[str, object]]) -> Record:
    """Does work that gives figures, unless its record is there.

    Args:
        work: returns the figures, as JSON values.

    Raises:
        StepError: it failed, now or in an earlier attempt; `forget_failure` lets it be tried again.
    """
    known = _known(path, origin.key)
    if known is not None:
        return known
    began = time.time()
    try:
        record = Record(origin=origin, result=work(), started=began, seconds=_since(began))
    except Exception as error:
        raise _failed(path, origin, error, began) from None
    write_record(path, record)
    return record


def fill_folder(folder: Path, origin: Origin, fill: Callable[[Path], Mapping[str, object]]) -> Record:
    """Does work that leaves a folder, unless the record in it is there; see `fill_file`.

    Args:
        folder: takes its place as a whole, with its record in `record.json`.
        fill: writes files to the folder that it is given, and returns figures.

    Raises:
        StepError: it failed, now or in an earlier attempt.
    """
    known = _known(folder / NAME, origin.key)
    if known is not None:
        return known
    began = time.time()
    try:
        with result_folder(folder, [], overwrite=True) as out:
            record = Record(origin=origin, result=fill(out), started=began, seconds=_since(began))
            (out / NAME).write_bytes(encode_json({"format": FORMAT, **record.to_json()}))
    except Exception as error:
        raise _failed(folder / NAME, origin, error, began) from None
    return record


def forget_failure(path: Path) -> None:
    """Removes the record of work that failed, so that it is tried again."""
    record = read_record(path)
    if record is not None and record.error is not None:
        path.unlink(missing_ok=True)


def _known(path: Path, key: str) -> Record | None:
    record = find_record(path, key)
    if record is not None and record.error is not None:
        raise StepError(record.error)
    return record


def _failed(path: Path, origin: Origin, error: Exception, began: float) -> StepError:
    """Keeps why work failed."""
    expected = isinstance(error, DarkpruneError)
    message = " ".join((str(error) if expected else f"{type(error).__name__}: {error}").split())
    trace = None if expected else "".join(traceback.format_exception(error))
    seconds = _since(began)
    write_record(path, Record(origin=origin, done=False, started=began, seconds=seconds, error=message, trace=trace))
    return StepError(message)


def _since(began: float) -> float:
    return round(max(0.0, time.time() - began), 3)
