"""onnxruntime, opened in one way everywhere: on the processor, without spinning threads, and without a word of its own.

It is imported when the first session is opened, so that whoever only writes files need not wait for it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import numpy as np
import onnx
from numpy.typing import NDArray

from darkprune.errors import RunnerError, one_line

Array = NDArray[Any]
_FATAL = 4  #: log level; errors are raised, so they need not be logged too


class Event(TypedDict):
    """An entry of onnxruntime's profile: name, category ("Node" for an operator), start and duration in µs."""

    name: str
    cat: str
    ts: float
    dur: float


class OnnxSession:
    """An ONNX file that is ready to run.

    Attributes:
        name: what errors call it.
        input: name of its input.
        batch: images per call; None where that is open.
        outputs: names of its outputs.
    """

    def __init__(
        self,
        source: Path | onnx.ModelProto,
        name: str = "",
        profile: Path | None = None,
        *,
        packed: bool = True,
        optimised: bool = True,
    ) -> None:
        """Opens a session.

        Args:
            source: the file, or a model whose weights are in it.
            name: what errors call it; by default the file.
            profile: start of the name of a file to which `end_profile` writes what every node took.
            packed: whether weights are copied into the order that is fastest; for a single run it does not pay.
            optimised: whether nodes are joined and put into another order; inner tensors are as they will be, and
                are freed as soon as the file's order allows, only where they are not.

        Raises:
            RunnerError: onnxruntime is missing, or refuses the file.
        """
        self.name = name or (str(source) if isinstance(source, Path) else "the model")
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = _FATAL
        # threads that spin while they wait starve everything else on a small machine
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not packed:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        if not optimised:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        content = _content(source) if isinstance(source, Path) else source.SerializeToString()
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes are not public
            raise RunnerError(f"onnxruntime refuses {self.name}: {_reason(error)}") from None
        image = self._session.get_inputs()[0]
        self.input: str = image.name
        self.batch: int | None = image.shape[0] if isinstance(image.shape[0], int) else None
        self.outputs: list[str] = [output.name for output in self._session.get_outputs()]
        self._dtype = np.float16 if image.type == "tensor(float16)" else np.float32

    def run(self, images: Array, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Computes the named outputs, by default all of them; the images are converted to the input's type.

        Raises:
            RunnerError: onnxruntime cannot run it.
        """
        names = self.outputs if outputs is None else list(outputs)
        try:
            values = self._session.run(names, {self.input: np.asarray(images, self._dtype)})
        except Exception as error:
            raise RunnerError(f"onnxruntime cannot run {self.name}: {_reason(error)}") from None
        return dict(zip(names, values, strict=True))

    def end_profile(self) -> list[Event]:
        """Returns what every node took since the session was opened with `profile`."""
        events: list[Event] = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return events


def _content(path: Path) -> str | bytes:
    """Returns what onnxruntime opens: the path, or the file's content where the path is not UTF-8.

    Raises:
        RunnerError: the file cannot be read.
    """
    if is_text(path):
        return str(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunnerError(f"{path}: cannot be read ({error.strerror})") from None


def is_text(path: Path) -> bool:
    """Returns whether a path is UTF-8, as ONNX files and onnxruntime need their paths to be."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def onnxruntime() -> ModuleType:
    """Returns the module.

    Raises:
        RunnerError: it is not installed, or damaged.
    """
    try:
        module = import_module("onnxruntime")
    except ImportError as error:
        if is_installed():
            raise RunnerError(f"onnxruntime cannot be imported ({one_line(str(error), 200)})") from None
        raise RunnerError("onnxruntime is not installed: pip install 'darkprune[export]'") from None
    module.set_default_logger_severity(_FATAL)
    return module


def is_installed() -> bool:
    """Returns whether onnxruntime is installed."""
    return find_spec("onnxruntime") is not None


@contextmanager
def silenced() -> Iterator[None]:
    """Keeps quiet what onnxruntime's quantisation prints and logs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
