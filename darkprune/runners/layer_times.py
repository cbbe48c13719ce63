"""Milliseconds per convolution over its widths, measured in a program as networks of one layer.

Each convolution is timed at a few numbers of input and output channels, all multiples of 8, and everything between is
interpolated: programs for inference work on channels in blocks, so that a width costs what the next multiple of 8
costs. What was measured is kept in `$XDG_CACHE_HOME/darkprune/` (`~/.cache/darkprune/`) for this program and machine.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from itertools import product
from pathlib import Path

import numpy as np

from darkprune.darknet.cfg import parse_cfg
from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.errors import OutputError
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import Graph, Layer, build_graph
from darkprune.layers import INPUT
from darkprune.layers.base import Floats
from darkprune.layers.convolution import Convolutional
from darkprune.processes import usable_cores
from darkprune.progress import reporting, silent, track
from darkprune.runners.base import load_with_any
from darkprune.runners.timing import runs_within, time_alternately
from darkprune.runs.record import Origin, Record
from darkprune.runs.record_file import RecordFile, cache_folder

FORMAT = "darkprune-times/1"
NAME = "layer-times.json"
MULTIPLE = 8  #: widths between two multiples cost what the larger one costs
WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1)  #: that are measured, as parts of the original's
RUNS = (3, 30)  #: least and most timed runs of a layer
SECONDS = 0.03  #: of timed runs
#: program -> its module; TensorRT would take minutes for each layer
TIMED = {"opencv": "cv2", "onnxruntime": "onnxruntime", "torch": "torch"}


@dataclass(frozen=True)
class WidthTable:
    """Times of one convolution.

    Attributes:
        inputs, outputs: numbers of channels, rising.
        ms: (inputs, outputs), milliseconds; of a depthwise convolution (inputs, 1).
    """

    inputs: Sequence[int]
    outputs: Sequence[int]
    ms: Floats

    def at(self, inputs: float, outputs: float) -> float:
        """Returns the milliseconds at a width, interpolated; below the smallest one those of the smallest."""
        column = [np.interp(_next_multiple(inputs), self.inputs, times) for times in self.ms.T]
        return float(np.interp(_next_multiple(outputs), self.outputs, column)) if len(column) > 1 else float(column[0])


@dataclass(frozen=True)
class LayerPrices:
    """What the convolutions of a network cost."""

    tables: Mapping[int, WidthTable]

    def of(self, graph: Graph) -> float:
        """Returns the milliseconds of all convolutions of a network with the same layers at other widths."""
        return sum(table.at(graph[i].inputs[0].c, graph[i].output.c) for i, table in self.tables.items())

    def shares(self, layer: Layer) -> tuple[float, float]:
        """Returns what a layer's input channels cost together, and its output channels, in milliseconds.

        That is twice what half of them would save, so that neither noise nor blocks of channels decide.
        """
        if layer.index not in self.tables:
            return 0.0, 0.0
        table, read, made = self.tables[layer.index], layer.inputs[0].c, layer.output.c
        whole = table.at(read, made)
        saved = (2 * (whole - table.at(read / 2, made)), 2 * (whole - table.at(read, made / 2)))
        return max(saved[0], whole / 100), max(saved[1], whole / 100)  # nothing is free, whatever the noise


@dataclass(frozen=True)
class _Timed:
    """One network of one layer."""

    layer: Layer
    inputs: int
    outputs: int

    @property
    def cfg(self) -> str:
        """The network as text; the head makes programs give the map that it reads, and costs nothing."""
        layer = self.layer
        assert isinstance(layer.kind, Convolutional)
        geometry = layer.kind.geometry
        groups = self.inputs if layer.is_depthwise else math.gcd(geometry.groups, self.inputs, self.outputs)
        across, down = geometry.stride_x, geometry.stride_y
        stride = f"stride={across}\n" if across == down else f"stride_x={across}\nstride_y={down}\n"
        return (
            f"[net]\nwidth={layer.inputs[0].w}\nheight={layer.inputs[0].h}\nchannels={self.inputs}\n\n"
            f"[convolutional]\nfilters={self.outputs}\ngroups={groups}\nsize={geometry.size}\n"
            f"{stride}dilation={geometry.dilation}\npadding={geometry.padding}\nactivation={layer.kind.activation}\n\n"
            f"[yolo]\nmask=0\nanchors=10,10\nnum=1\nclasses={self.outputs - 5}\n"
        )


@dataclass(frozen=True)
class LayerTimes:
    """Measures convolutions in one program, each once.

    Attributes:
        runner: the program.
        batch: images per run.
        path: of the file that times are kept in.
    """

    runner: str
    batch: int = 1
    path: Path = field(default_factory=lambda: cache_folder() / NAME)

    def prices(self, graph: Graph) -> LayerPrices:
        """Returns the times of a network's convolutions, measured as far as they are not known.

        Raises:
            RunnerError: the program is not installed, or refuses a layer.
        """
        records = self._records
        grids = {layer.index: list(_grid(layer)) for layer in graph if isinstance(layer.kind, Convolutional)}
        origins = {timed.cfg: self._origin(timed) for grid in grids.values() for timed in grid}
        todo = {cfg: origin for cfg, origin in origins.items() if _known(records, origin) is None}
        step = track("timing layers", len(todo), "layer")
        found: dict[str, float] = {}
        for cfg, origin in todo.items():
            found[cfg] = self._measure(build_graph(parse_cfg(cfg)))
            records.records[origin.key] = Record(origin=origin, result={"ms": found[cfg]})
            step()
        if todo:
            with suppress(OutputError):  # where nothing can be kept the next run measures again
                records.write()
        for cfg, origin in origins.items():
            found.setdefault(cfg, _known(records, origin) or 0.0)
        return LayerPrices({index: _table(grid, found) for index, grid in grids.items()})

    @cached_property
    def _records(self) -> RecordFile:
        """What is known, from the file; what this object measures is known to it also where none can be written."""
        records = RecordFile(self.path, FORMAT, {})
        if self.path.exists():
            try:
                records.load()
            except OutputError:
                records.records.clear()  # damaged: measured anew
        return records

    def _origin(self, timed: _Timed) -> Origin:
        version = str(getattr(import_module(TIMED[self.runner]), "__version__", ""))
        machine = [platform.node(), platform.machine(), usable_cores()]
        decided = {"runner": [self.runner, version], "machine": machine, "batch": self.batch, "cfg": timed.cfg}
        return Origin("time a layer", decided, program="any")  # versions of darkprune measure alike

    @reporting(silent)
    def _measure(self, graph: Graph) -> float:
        with TemporaryFolder() as folder:
            weights = Path(folder) / "layer.weights"
            with weights.open("wb") as file:
                write_fresh(graph, file, 0)
            network = load_with_any(graph, weights, self.runner, taps=False)[1]
            runs = runs_within(SECONDS, RUNS, [network], batch=self.batch)
            # the fastest: other work on the machine only ever makes runs slower
            return 1e3 * min(time_alternately([network], runs, 0, batch=self.batch)[0])


def _known(records: RecordFile, origin: Origin) -> float | None:
    record = records.find(origin.key, origin.key)
    ms = None if record is None else record.result.get("ms")
    return float(ms) if isinstance(ms, int | float) and ms > 0 else None


def _grid(layer: Layer) -> Iterator[_Timed]:
    """Yields the widths at which a convolution is timed."""
    read = [layer.inputs[0].c] if layer.sources[0] == INPUT else _widths(layer.inputs[0].c)
    if layer.is_depthwise:
        times = layer.output.c // layer.inputs[0].c
        yield from (_Timed(layer, width, times * width) for width in read)
    else:
        yield from (_Timed(layer, *widths) for widths in product(read, _widths(layer.output.c)))


def _widths(channels: int) -> list[int]:
    return sorted({_next_multiple(channels * part) for part in WIDTHS})


def _next_multiple(channels: float) -> int:
    return max(1, math.ceil(channels / MULTIPLE)) * MULTIPLE


def _table(grid: Sequence[_Timed], found: Mapping[str, float]) -> WidthTable:
    inputs = sorted({timed.inputs for timed in grid})
    outputs = [0] if grid[0].layer.is_depthwise else sorted({timed.outputs for timed in grid})
    return WidthTable(inputs, outputs, np.reshape([found[timed.cfg] for timed in grid], (len(inputs), len(outputs))))
