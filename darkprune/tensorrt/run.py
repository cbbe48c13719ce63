"""Running an engine on this machine, and comparing it with onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from darkprune.errors import DarkpruneError, RunnerError
from darkprune.kit.board.runtime import RuntimeFailure, metadata
from darkprune.kit.board.runtime.command import import_tensorrt
from darkprune.kit.board.runtime.compare import deviation, reference_input, tolerance
from darkprune.kit.board.runtime.cuda import Cuda
from darkprune.kit.board.runtime.files import sha256_of
from darkprune.kit.board.runtime.session import Session, open_engine
from darkprune.onnx.check import OutputComparison
from darkprune.onnx.read import read_model
from darkprune.onnx.session import OnnxSession
from darkprune.tensorrt.operators import operator_facts

Floats = npt.NDArray[np.float32]


class Engine:
    """An engine that is ready to run; a context manager that gives the GPU's memory back.

    Attributes:
        name: of its input.
        shape: of its input, (batch, channels, height, width); batch is -1 where it is open.
        outputs: shape of each output by name.
        facts: what stands beside the engine; empty for one that darkprune did not build.
    """

    def __init__(self, path: Path) -> None:
        """Loads an engine that belongs to this machine.

        Raises:
            RunnerError: no TensorRT or CUDA here, or the engine belongs to another version or GPU.
        """
        with failures_as(RunnerError):
            self._session: Session = open_engine(import_tensorrt(), Cuda(), str(path))
        self.name: str = self._session.inputs[0].name
        self.shape: tuple[int, ...] = self._session.inputs[0].shape
        self.outputs = {tensor.name: tensor.shape for tensor in self._session.outputs}
        self.facts: Mapping[str, object] = self._session.facts or {}

    def run(self, images: Floats) -> dict[str, Floats]:
        """Computes the outputs; they are overwritten by the next `run`.

        Args:
            images: (batch, channels, height, width), RGB in 0..1.

        Raises:
            RunnerError: another shape than the engine takes, or CUDA fails.
        """
        with failures_as(RunnerError):
            return self._session.run({self.name: images})

    def layer_times(self, images: Floats, runs: int = 20) -> list[tuple[str, float]]:
        """Measures the mean milliseconds per layer in the order of execution; slows every later `run` down.

        Raises:
            RunnerError: as `run`.
        """
        with failures_as(RunnerError):
            return self._session.layer_times({self.name: images}, runs)

    def close(self) -> None:
        """Frees the GPU's memory.

        Raises:
            RunnerError: CUDA fails.
        """
        with failures_as(RunnerError):
            self._session.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def compare_engine(engine_path: Path, onnx_path: Path) -> OutputComparison:
    """Compares the outputs of an engine and of its file in onnxruntime for the same noise.

    Raises:
        RunnerError: onnxruntime is missing, the engine was made from another file or does not run here.
    """
    with failures_as(RunnerError):
        facts = metadata.load(str(engine_path)) or {}
        if facts.get("onnx_sha256", "") not in ("", sha256_of(str(onnx_path))):
            raise RunnerError(f"{engine_path}: not made from {onnx_path} but from another {facts.get('onnx')}")
    plugins = {node.op_type for node in read_model(onnx_path).graph.node} & set(operator_facts()["plugins"])
    if plugins:
        return OutputComparison(skipped=f"onnxruntime has no {', '.join(sorted(plugins))}")
    if facts.get("portable") and not has_gpu():
        return OutputComparison(skipped="built without a GPU, so it was not run")
    reference = OnnxSession(onnx_path)
    with Engine(engine_path) as engine:
        feed = reference_input((max(engine.shape[0], 1), *engine.shape[1:]))
        actual = engine.run(feed)
        deviations = {name: deviation(want, actual[name]) for name, want in reference.run(feed).items()}
    exact = facts.get("precision", "fp32") == "fp32" and facts.get("file_precision", "fp32") == "fp32"
    allowed = tolerance(bool(facts.get("tf32", True))) if exact else float("inf")
    return OutputComparison(deviations, allowed, "onnxruntime")


def has_gpu() -> bool:
    """Returns whether this machine has a GPU that CUDA can use."""
    try:
        Cuda().device()
    except RuntimeFailure:
        return False
    return True


@contextmanager
def failures_as(kind: type[DarkpruneError]) -> Iterator[None]:
    """Turns the runtime's one-line failures into darkprune's."""
    try:
        yield
    except RuntimeFailure as error:
        raise kind(str(error)) from None
