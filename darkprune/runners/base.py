"""The interface to programs that run a network, and the choice among those that are installed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from darkprune.errors import RunnerError, UsageError
from darkprune.graph.graph import Graph

Maps = Mapping[int, NDArray[np.float32]]


class LoadedNetwork(ABC):
    """A network that is ready to run."""

    graph: Graph

    def head_maps(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Runs a batch up to its detection heads.

        Args:
            images: (batch, channels, height, width), RGB, 0 to 1.

        Returns:
            For each head, in order, what it reads: (batch, channels, h, w), before any activation of the head.
        """
        each = [self.outputs(image) for image in images]
        return [np.stack([maps[head.sources[0]] for maps in each]) for head in self.graph.heads]

    def layer_times(self, images: NDArray[np.float32]) -> dict[int, float] | None:
        """Returns layer index -> milliseconds for a batch; None where the program does not measure it."""
        return None

    @abstractmethod
    def outputs(self, image: NDArray[np.float32]) -> Maps:
        """Runs one image.

        Args:
            image: (channels, height, width), RGB, 0 to 1.

        Returns:
            Layer index -> (c, h, w) output, for every layer that the program shows; heads are left out (their input is
            shown, and programs differ in how they decode it).
        """


class Runner(Protocol):
    """A module that runs Darknet pairs in a program."""

    def load(self, graph: Graph, weights: Path, *, taps: bool = True, once: bool = False) -> LoadedNetwork:
        """Loads a pair.

        Args:
            taps: whether `outputs` will be asked for; without it the program may fuse layers to be faster.
            once: whether it will be run once only: then the weights need not stay in memory.

        Raises:
            RunnerError: the program is not installed, or refuses this network.
        """
        ...


def by_layer(times: Iterable[tuple[int | None, float]], layers: int) -> dict[int, float]:
    """Adds up the milliseconds of a program's steps, each with its darknet layer; what belongs to none is left out."""
    found: dict[int, float] = {}
    for index, ms in times:
        if index is not None and index < layers:
            found[index] = found.get(index, 0.0) + ms
    return found


#: program -> its module
RUNNERS = {
    "opencv": "darkprune.runners.opencv_runner",
    "onnxruntime": "darkprune.runners.onnxruntime_runner",
    "torch": "darkprune.runners.torch_runner",
    "tensorrt": "darkprune.runners.tensorrt_runner",
}
#: for work on layers, in order of preference; TensorRT only when asked for: it takes minutes and shows no layer
PREFERRED = ("opencv", "onnxruntime", "torch")
#: for work on many images: the fastest on a processor first
FAST_FIRST = ("torch", "onnxruntime", "opencv")


def get_runner(name: str) -> Runner:
    """Returns a runner by name.

    Raises:
        UsageError: no such runner.
        RunnerError: it is not installed.
    """
    if name not in RUNNERS:
        raise UsageError(f"no runner '{name}'; there are {', '.join(RUNNERS)}")
    try:
        return cast("Runner", import_module(RUNNERS[name]))
    except ImportError as error:
        raise RunnerError(f"runner {name} is not installed ({error})") from None


def load_with_any(
    graph: Graph,
    weights: Path,
    name: str | None = None,
    *,
    taps: bool = True,
    once: bool = False,
    order: Sequence[str] = PREFERRED,
    refusals: list[str] | None = None,
) -> tuple[str, LoadedNetwork]:
    """Loads a pair in the named runner, or in the first of an order that takes it.

    Args:
        name: the only runner that is tried; None tries all of `order`.
        taps, once: see `Runner.load`.
        refusals: gets the reason of every runner that does not take the pair.

    Returns:
        The runner's name and the loaded network.

    Raises:
        RunnerError: none takes it; the message has each one's reason.
    """
    reasons: list[str] = [] if refusals is None else refusals
    for candidate in [name] if name else order:
        try:
            return candidate, get_runner(candidate).load(graph, weights, taps=taps, once=once)
        except RunnerError as error:
            reasons.append(str(error))
    raise RunnerError("; ".join(reasons))
