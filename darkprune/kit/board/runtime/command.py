"""Functions that the scripts of a kit share: importing TensorRT, opening the engine, one line per expected failure."""

import importlib
import os
import sys
from typing import Callable, Sequence

from . import RuntimeFailure, TensorRT
from .cuda import Cuda
from .model import Model
from .session import Session, open_engine

ENGINE = "model.engine"
# TensorRT, then TensorRT for RTX: its whole package, and its bindings alone
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


def import_tensorrt(modules: Sequence[str] = MODULES) -> TensorRT:
    """Returns the `tensorrt` module of this machine, or that of TensorRT for RTX.

    Raises:
        RuntimeFailure: there is neither.
    """
    reasons = []
    for name in modules:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reasons.append(error)
    raise RuntimeFailure(
        "tensorrt: Python cannot import it ({}); JetPack has it in the package python3-libnvinfer, and a virtual "
        "environment needs --system-site-packages to see it".format(reasons[0])
    )


def open_kit_engine(folder: str, path: str, model: Model) -> Session:
    """Opens the engine of a kit in `folder`: the one at `path`, or the kit's own for "".

    Raises:
        RuntimeFailure: it is not built yet, belongs to another machine, or was made from another ONNX file.
    """
    engine = path or os.path.join(folder, ENGINE)
    if not os.path.exists(engine):
        raise RuntimeFailure("{}: not there yet, run build_engine.py first".format(engine))
    session = open_engine(import_tensorrt(), Cuda(), engine)
    if session.facts is not None and session.facts.get("onnx_sha256") != model.onnx_sha256:
        raise RuntimeFailure("{}: made from another ONNX file, run build_engine.py again".format(engine))
    return session


def run(main: Callable[[], int]) -> int:
    """Runs a script and returns its exit status: 1 after an expected failure, which is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # Python 3.7 and later
            stream.reconfigure(errors="backslashreplace")  # class names on a terminal without their letters
    try:
        return main()
    except RuntimeFailure as error:
        sys.stderr.write("error: {}\n".format(error))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    except BrokenPipeError:  # `| head` has seen enough; what is left in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
