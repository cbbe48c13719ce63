"""What an interrupted refit has solved: kept beside the output, so that the same command goes on from there.

For `-o slim` it is the folder `slim.refit`: the new values of each layer in a file of its own, and a record of
everything that decides them. It is removed once the output is written.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from darkprune.darknet.leftovers import remove_leftovers_in
from darkprune.darknet.output import LOCK, atomic_file
from darkprune.errors import OutputError
from darkprune.runs.digests import digest_of_file
from darkprune.runs.lock import locked
from darkprune.runs.record import NAME, Origin, Record, find_record, read_record, write_record

SUFFIX = ".refit"
STEP = "refit"  #: of the record
LAYER = re.compile(r"layer-\d{4,}")  #: name of a layer's file


class SolvedLayers:
    """The layers that a refit has solved.

    Attributes:
        folder: that holds them; made by `begin`.
    """

    def __init__(self, output: Path) -> None:
        """Begins without layers.

        Args:
            output: what the refitted network is written to in the end.
        """
        output = Path(os.path.abspath(output))
        self.folder = output.with_name(output.name + SUFFIX)
        self._lock = ExitStack()
        self._record: Record | None = None

    def begin(self, origin: Origin) -> None:
        """Takes up the layers that an interrupted refit of the same origin has left; those of another one are removed.

        Raises:
            OutputError: the folder holds something else, cannot be written, or another process works in it.
        """
        if self._record is None:
            known = read_record(self.folder / NAME)
            if (known is None or known.origin.step != STEP) and any(
                path.name[0] != "." for path in self.folder.glob("*")
            ):
                raise OutputError(f"{self.folder}: is not of an interrupted refit, whose place it takes; move it away")
            self._lock.enter_context(locked(self.folder))
        record = find_record(self.folder / NAME, origin.key)
        if record is None:
            self._clear()
            record = Record(origin=origin, done=False, started=time.time())
            write_record(self.folder / NAME, record)
        self._record = record

    def take(self, layer: int) -> bytes | None:
        """Returns the values of a layer; None where it is not solved yet, or its file was damaged."""
        assert self._record is not None
        path, digest = self._path(layer), self._record.outputs.get(self._path(layer).name)
        try:
            return path.read_bytes() if digest is not None and digest_of_file(path) == digest else None
        except OSError:
            return None

    def keep(self, layer: int, values: bytes) -> None:
        """Keeps the values of a layer.

        Raises:
            OutputError: they cannot be written.
        """
        assert self._record is not None
        path = self._path(layer)
        with atomic_file(path, overwrite=True) as file:
            file.write(values)
        outputs = {**self._record.outputs, path.name: sha256(values).hexdigest()}
        self._record = replace(self._record, outputs=outputs)
        write_record(self.folder / NAME, self._record)

    @property
    def count(self) -> int:
        """Number of layers that are solved."""
        return len(self._record.outputs) if self._record is not None else 0

    def close(self) -> None:
        """Lets other processes into the folder."""
        self._lock.close()

    def remove(self) -> None:
        """Removes the folder, if it was made and nothing else lies in it."""
        if self._record is not None:
            self._clear()
            for name in (NAME, LOCK):
                (self.folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()

    def _clear(self) -> None:
        """Removes the layers, also one that was being written when a process was killed."""
        remove_leftovers_in(self.folder)
        for path in self.folder.glob("layer-*"):
            if LAYER.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()

    def _path(self, layer: int) -> Path:
        return self.folder / f"layer-{layer:04}"


@contextmanager
def solved_layers(output: Path | None) -> Iterator[SolvedLayers | None]:
    """Gives the place for the layers of one refit, or of several one after the other.

    It is removed when the block ends well, and stays where that fails or is interrupted with layers in it.

    Args:
        output: what is written at the end of the block; where that is nothing, nothing is kept either.

    Raises:
        KeyboardInterrupt: the block was interrupted; the message says what is left.
    """
    if output is None:
        yield None
        return
    solved = SolvedLayers(output)
    try:
        yield solved
        solved.remove()
    except BaseException as error:
        if not solved.count:
            solved.remove()
        elif isinstance(error, KeyboardInterrupt):
            left = f"{solved.count} refitted layers are kept in {solved.folder.name}"
            raise KeyboardInterrupt(f"{left}: the same command goes on from there") from None
        raise
    finally:
        solved.close()
