"""Objects that TensorRT calls back: a log, a calibrator, a progress monitor.

Their classes derive from classes of the `tensorrt` module, so they are made once it is known. C++ calls them without
catching Python exceptions in every release (8.2 ends the process), so none may escape from them.
"""

import re
import threading
import time
from typing import Callable, Dict, Iterable, List, Optional

import numpy as np

from . import RuntimeFailure, TensorRT
from .cuda import Cuda
from .files import read_bytes, write_atomic

_HEARTBEAT_SECONDS = 15.0


def make_log(trt: TensorRT, detailed: bool = False) -> TensorRT:
    """Returns a trt.ILogger that keeps TensorRT's `errors` and `warnings`; with `detailed` all of its `lines`."""
    levels = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: List[str] = []
            self.warnings: List[str] = []
            self.lines: List[str] = []

        def log(self, severity: TensorRT, msg: str) -> None:
            if severity in (levels.ERROR, levels.INTERNAL_ERROR):
                self.errors.append(" ".join(str(msg).split()))
            elif severity == levels.WARNING:
                self.warnings.append(" ".join(str(msg).split()))
            if detailed:
                self.lines.extend(str(msg).splitlines())

        def reason(self) -> str:
            return self.errors[-1] if self.errors else "it gives no reason"

    return Log()


def create(kind: TensorRT, log: TensorRT) -> TensorRT:
    """Makes a trt.Builder or trt.Runtime.

    Raises:
        RuntimeFailure: TensorRT cannot, on a machine without a GPU or with another driver.
    """
    try:
        return kind(log)
    except TypeError as error:  # "factory function returned nullptr"
        reason = log.errors[-1] if log.errors else str(error)
        raise RuntimeFailure("TensorRT: its {} cannot be made here: {}".format(kind.__name__, reason)) from None


def make_calibrator(trt: TensorRT, cuda: Cuda, images: Optional[Iterable[np.ndarray]], cache: str) -> TensorRT:
    """Returns an entropy calibrator over `images`, or one that reads the ranges in `cache` where there are none.

    Args:
        trt: the `tensorrt` module; 8.x or 10.x.
        cuda: `Cuda`.
        images: batches of one shape, float32; None to read `cache`.
        cache: file to read, or to write when there are images (then "" is allowed).

    The object's `failure` holds what went wrong, for after the build.
    """
    batches = None if images is None else iter(images)
    first = None if batches is None else next(batches, None)
    if batches is not None and first is None:
        raise RuntimeFailure("calibration: there are no images")

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.failure: Optional[BaseException] = None
            self._pending = first
            self._address = 0
            self._stream = cuda.new_stream() if first is not None else 0

        def get_batch_size(self) -> int:
            return 1 if first is None else int(first.shape[0])

        def get_batch(self, names: List[str]) -> Optional[List[int]]:
            try:
                batch, self._pending = self._pending, None
                if batch is None and batches is not None:
                    batch = next(batches, None)
                if batch is None or first is None:
                    return None
                if batch.shape != first.shape:
                    raise RuntimeFailure("a batch of shape {} after {}".format(batch.shape, first.shape))
                if not self._address:
                    self._address = cuda.allocate(batch.nbytes)
                data = np.ascontiguousarray(batch, dtype=np.float32)
                cuda.copy_in(self._address, data, self._stream)
                cuda.wait(self._stream)
                return [self._address] * len(names)
            except BaseException as error:
                self.failure = error
                return None

        def read_calibration_cache(self) -> Optional[bytes]:
            try:
                return with_version(read_bytes(cache), trt.__version__) if first is None else None
            except BaseException as error:
                self.failure = error
                return None

        def write_calibration_cache(self, content: bytes) -> None:
            try:
                if cache and first is not None:
                    write_atomic(cache, content)
            except BaseException as error:
                self.failure = error

    return Calibrator()


def with_version(cache: bytes, version: str) -> bytes:
    """Returns a calibration cache with another version of TensorRT in its header, as NV_TENSORRT_VERSION has it.

    TensorRT skips a cache of another version (NVIDIA/TensorRT issue 1378) and then has nothing to calibrate with. The
    ranges are those of the ONNX file's tensors, so they hold for every version.
    """
    return re.sub(rb"\ATRT-\d+-", "TRT-{}-".format(version_number(version)).encode(), cache)


def version_number(version: str) -> int:
    """Returns NV_TENSORRT_VERSION (NvInferVersion.h): 8.2 is 8200, 8.2.1 is 8201, 10.3.0 is 100300."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:3]] + [0, 0]
    hundreds = 100 if numbers[0] >= 10 else 10
    return (numbers[0] * hundreds + numbers[1]) * 100 + numbers[2]


def watch(trt: TensorRT, config: TensorRT, say: Callable[[str], None]) -> "Watcher":
    """Returns what reports a build's progress: TensorRT's own where it has a monitor (10 and later), else the time."""
    if hasattr(trt, "IProgressMonitor"):
        return _Monitored(trt, config, say)
    return Watcher(say)


class Watcher:
    """Reports now and then that the build is still running; a context manager."""

    def __init__(self, say: Callable[[str], None], every: float = _HEARTBEAT_SECONDS) -> None:
        self.interrupted = False
        self._say = say
        self._every = every
        self._done = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def _beat(self) -> None:
        started = time.time()
        while not self._done.wait(self._every):
            self._say("building for {:.0f} s, a Nano takes 10 minutes and more".format(time.time() - started))

    def __enter__(self) -> "Watcher":
        self._thread = threading.Thread(target=self._beat)
        self._thread.daemon = True
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()


class _Monitored(Watcher):
    """TensorRT reports phases and steps."""

    def __init__(self, trt: TensorRT, config: TensorRT, say: Callable[[str], None]) -> None:
        Watcher.__init__(self, say)
        self._config = config
        self._monitor = _make_monitor(trt, say, self)

    def __enter__(self) -> "Watcher":
        self._config.progress_monitor = self._monitor
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _make_monitor(trt: TensorRT, say: Callable[[str], None], watcher: Watcher) -> TensorRT:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: Dict[str, int] = {}
            self._said = time.time()

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            try:
                self._steps[phase_name] = num_steps
                if parent_phase is None:
                    say("{}: {} steps".format(phase_name, num_steps))
            except KeyboardInterrupt:
                watcher.interrupted = True

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                now = time.time()
                if now - self._said >= 2.0:
                    self._said = now
                    say("{}: {} of {}".format(phase_name, step + 1, self._steps.get(phase_name, 0)))
            except KeyboardInterrupt:
                watcher.interrupted = True
            return not watcher.interrupted  # False makes TensorRT give up

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
