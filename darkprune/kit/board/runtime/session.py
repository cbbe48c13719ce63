"""Run an engine: CUDA buffers for every tensor, one stream, arrays in and arrays out."""

from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple, Type

import numpy as np

from . import RuntimeFailure, TensorRT
from .callbacks import create, make_log
from .cuda import Cuda
from .dialects import choose
from .files import read_bytes
from .metadata import refuse_foreign

# trt.nptype uses np.bool in 8.x, which numpy 1.24 removed; so the types are named here.
_NUMPY_TYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT64": np.int64,
}

Shape = Tuple[int, ...]


class Tensor(NamedTuple):
    """An input or output of an engine; -1 in `shape` is the open batch size."""

    name: str
    shape: Shape
    dtype: Type[np.generic]


class _Buffer:
    """The two halves of a tensor's memory."""

    def __init__(self, cuda: Cuda, shape: Shape, dtype: Type[np.generic]) -> None:
        self._cuda = cuda
        self.host = cuda.host_array(shape, dtype)
        self.device = cuda.allocate(self.host.nbytes)

    def free(self) -> None:
        self._cuda.free(self.device)
        self._cuda.free_host(self.host)


class Session:
    """An engine with one execution context; subclasses address tensors by index or by name.

    Attributes:
        inputs: what `run` takes.
        outputs: what `run` returns.
        facts: what stands beside the engine, None when nothing does.
    """

    def __init__(self, trt: TensorRT, cuda: Cuda, serialized: TensorRT) -> None:
        self.trt = trt
        self.cuda = cuda
        self.facts: Optional[Dict[str, object]] = None
        self._log = make_log(trt)
        trt.init_libnvinfer_plugins(self._log, "")
        self._runtime = create(trt.Runtime, self._log)
        self.engine = self._runtime.deserialize_cuda_engine(serialized)
        if self.engine is None:
            raise RuntimeFailure("engine: TensorRT does not load it: {}".format(self._log.reason()))
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise RuntimeFailure("engine: no memory for running it: {}".format(self._log.reason()))
        self.inputs: List[Tensor] = []
        self.outputs: List[Tensor] = []
        for name, shape, dtype, is_input in self._described():
            tensor = Tensor(name, tuple(int(size) for size in shape), self._dtype(name, dtype))
            (self.inputs if is_input else self.outputs).append(tensor)
        self._stream = cuda.new_stream()
        self._buffers: Dict[str, _Buffer] = {}
        self._profiler: Optional[TensorRT] = None

    def run(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Computes the outputs.

        Args:
            feeds: one array per input; converted to the engine's type.

        Returns:
            One array per output. They are overwritten by the next `run`: copy what has to stay.

        Raises:
            RuntimeFailure: an input is missing or has another shape, or CUDA fails.
        """
        for tensor in self.inputs:
            if tensor.name not in feeds:
                raise RuntimeFailure("input {}: missing".format(tensor.name))
            array = feeds[tensor.name]
            if len(array.shape) != len(tensor.shape) or any(
                want not in (-1, have) for want, have in zip(tensor.shape, array.shape)
            ):
                raise RuntimeFailure(
                    "input {}: has shape {}, the engine takes {}".format(tensor.name, array.shape, tensor.shape)
                )
            buffer = self._buffer(tensor, tuple(array.shape))
            if -1 in tensor.shape:
                self._set_shape(tensor.name, tuple(array.shape))
            np.copyto(buffer.host, array, casting="unsafe")
            self.cuda.copy_in(buffer.device, buffer.host, self._stream)
        for tensor in self.outputs:
            shape = self._shape_now(tensor)
            if any(size < 0 for size in shape):
                raise RuntimeFailure("output {}: its size depends on the data, export raw heads".format(tensor.name))
            self._buffer(tensor, shape)
        if not self._execute():
            raise RuntimeFailure("engine: TensorRT could not run it: {}".format(self._log.reason()))
        for tensor in self.outputs:
            buffer = self._buffers[tensor.name]
            self.cuda.copy_out(buffer.host, buffer.device, self._stream)
        self.cuda.wait(self._stream)
        return {tensor.name: self._buffers[tensor.name].host for tensor in self.outputs}

    def layer_times(self, feeds: Dict[str, np.ndarray], runs: int = 20) -> List[Tuple[str, float]]:
        """Measures the mean milliseconds per layer, in the order of execution. Slows every later `run` down."""
        if self._profiler is None:
            self.run(feeds)  # the first run of a context is not typical
            self._profiler = _make_profiler(self.trt)
            self.context.profiler = self._profiler
        self._profiler.times.clear()
        for _ in range(runs):
            self.run(feeds)
        return [(name, total / runs) for name, total in self._profiler.times.items()]

    def close(self) -> None:
        """Frees the GPU's memory."""
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self.cuda.free_stream(self._stream)

    def _buffer(self, tensor: Tensor, shape: Shape) -> _Buffer:
        buffer = self._buffers.get(tensor.name)
        if buffer is None or buffer.host.shape != shape:
            if buffer is not None:
                buffer.free()
            buffer = _Buffer(self.cuda, shape, tensor.dtype)
            self._buffers[tensor.name] = buffer
        return buffer

    def _dtype(self, name: str, dtype: TensorRT) -> Type[np.generic]:
        for key, numpy_type in _NUMPY_TYPES.items():
            if hasattr(self.trt.DataType, key) and dtype == getattr(self.trt.DataType, key):
                return numpy_type
        raise RuntimeFailure("tensor {}: type {} has no counterpart in numpy".format(name, dtype))

    def _described(self) -> Iterator[Tuple[str, TensorRT, TensorRT, bool]]:
        """Yields name, trt.Dims and trt.DataType of each tensor, and whether it is an input."""
        raise NotImplementedError

    def _set_shape(self, name: str, shape: Shape) -> None:
        raise NotImplementedError

    def _shape_now(self, tensor: Tensor) -> Shape:
        raise NotImplementedError

    def _execute(self) -> bool:
        raise NotImplementedError


class BindingSession(Session):
    """TensorRT before 8.5: tensors have an index, addresses go into one list."""

    def _described(self) -> Iterator[Tuple[str, TensorRT, TensorRT, bool]]:
        engine = self.engine
        self._names = [engine.get_binding_name(index) for index in range(engine.num_bindings)]
        for index, name in enumerate(self._names):
            is_input = engine.binding_is_input(index)
            yield name, engine.get_binding_shape(index), engine.get_binding_dtype(index), is_input

    def _set_shape(self, name: str, shape: Shape) -> None:
        self.context.set_binding_shape(self._names.index(name), shape)

    def _shape_now(self, tensor: Tensor) -> Shape:
        return tuple(int(size) for size in self.context.get_binding_shape(self._names.index(tensor.name)))

    def _execute(self) -> bool:
        addresses = [self._buffers[name].device for name in self._names]
        return bool(self.context.execute_async_v2(bindings=addresses, stream_handle=self._stream))


class NamedSession(Session):
    """TensorRT 8.5 and later: tensors go by name."""

    def _described(self) -> Iterator[Tuple[str, TensorRT, TensorRT, bool]]:
        engine = self.engine
        for name in [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]:
            is_input = engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT
            yield name, engine.get_tensor_shape(name), engine.get_tensor_dtype(name), is_input

    def _set_shape(self, name: str, shape: Shape) -> None:
        self.context.set_input_shape(name, shape)

    def _shape_now(self, tensor: Tensor) -> Shape:
        return tuple(int(size) for size in self.context.get_tensor_shape(tensor.name))

    def _execute(self) -> bool:
        for name, buffer in self._buffers.items():
            self.context.set_tensor_address(name, buffer.device)
        return bool(self.context.execute_async_v3(stream_handle=self._stream))


def open_engine(trt: TensorRT, cuda: Cuda, path: str) -> Session:
    """Loads an engine that belongs to this machine.

    Raises:
        RuntimeFailure: it belongs to another TensorRT or GPU, or TensorRT does not load it.
    """
    name, capability = cuda.device()
    serialized = read_bytes(path)
    facts = refuse_foreign(path, trt.__version__, name, capability)
    kind = NamedSession if choose(trt).named_tensors else BindingSession
    session = kind(trt, cuda, serialized)
    session.facts = facts
    return session


def _make_profiler(trt: TensorRT) -> TensorRT:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: Dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name] = self.times.get(layer_name, 0.0) + ms

    return Profiler()
