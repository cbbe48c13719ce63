"""`manifest.json`: what a run has done, with the hashes of what went in and what came out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from darkprune import __version__
from darkprune.darknet.output import atomic_file
from darkprune.errors import OutputError

NAME = "manifest.json"
FORMAT = "darkprune-run/1"
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Entry:
    """What is known of one stage.

    Attributes:
        key: hash of what decides its result.
        done: whether it came to its end.
        command: the command line that did it.
        settings, inputs: what the key was made from: flags, and the digest of everything read.
        outputs: path in the run's folder -> SHA-256.
        result: what the command reported.
        seconds: time taken, over all sessions.
        started: when the last session began, in seconds since the epoch.
    """

    key: str
    done: bool = False
    command: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = 0.0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Entry:
        """Reads an entry.

        Raises:
            TypeError, ValueError: it is none.
        """
        entry = cls(**{**data, "command": tuple(data.get("command", ()))})
        for name in ("settings", "inputs", "outputs", "result"):
            if not isinstance(getattr(entry, name), dict):
                raise ValueError(f"{name} is no object")
        return replace(entry, key=str(entry.key), seconds=float(entry.seconds), started=float(entry.started))


class Manifest:
    """The record of a run's folder, on the disk after every change.

    Attributes:
        folder: of the run.
        network: SHA-256 of the cfg and the weights that the run is about.
        entries: by stage.
    """

    def __init__(self, folder: Path, network: dict[str, str], entries: dict[str, Entry]) -> None:
        self.folder = folder
        self.network = network
        self.entries = entries

    @classmethod
    def open(cls, folder: Path, network: dict[str, str], anew: bool = False) -> Manifest:
        """Takes up the record of a folder, or begins one; nothing is written yet.

        Args:
            folder: of the run.
            network: SHA-256 of cfg and weights.
            anew: forget what stands there.

        Raises:
            OutputError: the folder holds something else, or a run of another network.
        """
        path = folder / NAME
        if not path.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise OutputError(f"{folder}: holds no {NAME}, so it is no earlier run; choose another -o")
            return cls(folder, network, {})
        if anew:
            return cls(folder, network, {})
        known, entries = _read(path)
        for kind, digest in network.items():
            if known.get(kind) != digest:
                raise OutputError(
                    f"{folder}: is a run of another network (its {kind} has sha256 {str(known.get(kind))[:12]}…, this "
                    f"one {digest[:12]}…); choose another -o, or give --overwrite to forget it"
                )
        return cls(folder, network, entries)

    def put(self, name: str, entry: Entry) -> None:
        """Records a stage.

        Raises:
            OutputError: it cannot be written.
        """
        self.entries[name] = entry
        self.write()

    def drop(self, names: set[str]) -> None:
        """Forgets stages."""
        for name in names & set(self.entries):
            del self.entries[name]

    def write(self) -> None:
        """Writes the file.

        Raises:
            OutputError: it cannot be written.
        """
        data = {
            "format": FORMAT,
            "darkprune": __version__,
            "network": self.network,
            "stages": {name: asdict(entry) for name, entry in self.entries.items()},
        }
        with atomic_file(self.folder / NAME, overwrite=True) as file:
            file.write((json.dumps(data, indent=1) + "\n").encode())


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder, which is made.

    Raises:
        OutputError: another process is at work in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        try:
            import fcntl  # not on Windows, where nothing keeps others out

            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError:
            raise OutputError(f"{folder}: another darkprune is at work in it") from None
        yield
    finally:
        os.close(number)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        data = json.loads(raw) if len(raw) <= MAX_BYTES else {}
        if data["format"] != FORMAT:
            raise ValueError(f"format is {str(data['format'])[:40]!r}")
        entries = {str(name): Entry.from_json(entry) for name, entry in data["stages"].items()}
        return dict(data["network"]), entries
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"{path}: is not the record of a run ({type(error).__name__}: {str(error)[:80]}); "
            "give --overwrite to start anew"
        ) from None
