"""What a run writes: weights that darknet loads, and the state that it is resumed from.

The state holds everything, the network included, so that one file is always enough: it is written beside the old one
and takes its place as a whole, and what is read back is tensors and plain values, never code.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import torch

from darkprune.darknet.cfg import Cfg
from darkprune.darknet.leftovers import remove_leftovers_in
from darkprune.darknet.output import LOCK, atomic_file
from darkprune.darknet.weights import Header
from darkprune.errors import DarkpruneError, OutputError, TrainingError, one_line
from darkprune.graph.graph import Graph
from darkprune.graph.weights import weights_bytes
from darkprune.network import Network, save_weights
from darkprune.runs.provenance import NAME as PROVENANCE

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FORMAT = "darkprune-state/2"
STATE = "state.pt"
WEIGHTS = ("last", "best", "final")  #: the kinds of a run
#: files of a run besides its network
FILES = (STATE, "log.csv", "curves.png", "gamma.npz", "gamma.png", PROVENANCE, LOCK)
#: what a resumed run needs: tensors and plain values
State = dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
        folder: the folder.
        stem: what the weights' names begin with; the cfg's name, as in darknet.
    """

    folder: Path
    stem: str

    def weights(self, kind: str) -> Path:
        """Returns the path of weights: `last`, `best`, `final`, `ema` or a number of steps."""
        return self.folder / f"{self.stem}_{kind}.weights"

    @property
    def cfg(self) -> Path:
        """The cfg that `last`, `best` and `final` weights belong to."""
        return self.folder / f"{self.stem}.cfg"

    @property
    def state(self) -> Path:
        """The state of the run."""
        return self.folder / STATE

    def write_cfg(self, cfg: Cfg, kind: str | None = None) -> None:
        """Writes the cfg.

        Args:
            kind: of the weights that it is for alone; None for all.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.cfg if kind is None else self.weights(kind).with_suffix(".cfg")
        with atomic_file(path, overwrite=True) as file:
            file.write(cfg.encode())

    def write_names(self, content: bytes) -> None:
        """Writes the names of the classes beside the cfg.

        Raises:
            OutputError: they cannot be written.
        """
        with atomic_file(self.cfg.with_suffix(".names"), overwrite=True) as file:
            file.write(content)

    def forget_unfit(self, kind: str, graph: Graph) -> None:
        """Removes weights that are there and do not fit a network (any more).

        Raises:
            OutputError: they cannot be removed.
        """
        path = self.weights(kind)
        try:
            if path.exists() and path.stat().st_size != weights_bytes(graph):
                path.unlink()
        except OSError as error:
            raise OutputError(f"{path}: cannot be removed ({error.strerror})") from None

    def remove(self) -> None:
        """Removes what a run wrote here, and the folder where nothing else lies in it."""
        remove_leftovers_in(self.folder)
        written = [self.cfg, self.cfg.with_suffix(".names"), *map(self.weights, WEIGHTS)]
        for path in (*written, *(self.folder / name for name in FILES)):
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()

    def write_weights(self, network: Network, kind: str, seen: int) -> None:
        """Writes a network's weights; what was there before stays until they are complete.

        Raises:
            OutputError: they cannot be written.
        """
        with atomic_file(self.weights(kind), overwrite=True) as file:
            save_weights(network, file, Header(seen=seen))

    def write_state(self, state: State) -> None:
        """Writes the state; what was there before stays until it is complete.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_file(self.state, overwrite=True) as file:
            watched = _Watched(file)
            try:
                torch.save({"format": FORMAT, **state}, cast(BinaryIO, watched))
            except RuntimeError:
                if watched.trouble is not None:  # torch hides a full disk behind an error of its own
                    raise watched.trouble from None
                raise

    def read_state(self) -> State:
        """Reads the state, on the CPU.

        Raises:
            TrainingError: there is none, or it is not one of darkprune's.
        """
        if not self.state.is_file():
            raise TrainingError(f"{self.state}: no such file; there is no run in {self.folder} to resume")
        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler raises whatever a damaged file makes of it
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise TrainingError(f"{self.state}: cannot be read as a training state ({reason})") from None
        kind = str(state.get("format")) if isinstance(state, dict) else ""
        if not isinstance(state, dict) or not kind.startswith(FORMAT[:-1]):
            raise TrainingError(f"{self.state}: is not a training state of darkprune")
        if kind != FORMAT:
            raise TrainingError(
                f"{self.state}: another version of darkprune wrote it ({kind}; this one resumes {FORMAT}); go on with "
                "that version, or start a new run from its _last.weights"
            )
        return state


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Turns what a state with missing or odd parts makes of the code that uses it into one line.

    Raises:
        TrainingError: the state is damaged.
    """
    try:
        yield
    except (DarkpruneError, torch.OutOfMemoryError, MemoryError, OSError):
        raise
    except Exception as error:  # whatever values of another kind or size make of it
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise TrainingError(f"{path}: is damaged ({reason}); start anew with --overwrite") from None


class _Watched(io.RawIOBase):
    """Forwards writes and remembers an error."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.trouble: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.trouble = error
            raise

    def flush(self) -> None:
        self._file.flush()


def differences(stored: Mapping[str, object], now: Mapping[str, object], prefix: str = "") -> list[str]:
    """Lists what differs between two nested sets of plain values, as `name: then → now`."""
    found = []
    for key in sorted({*stored, *now}):
        then, this = stored.get(key), now.get(key)
        name = f"{prefix}{key}"
        if isinstance(then, dict) and isinstance(this, dict):
            found += differences(then, this, f"{name}.")
        elif _plain(then) != _plain(this):
            found.append(f"{name}: {then} → {this}")
    return found


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
