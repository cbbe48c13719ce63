"""A `tensorrt` module with exactly the names that one generation has, which runs its engines in onnxruntime.

What a generation lacks is absent: using it is an AttributeError, as there. Every call and every property that is set
is recorded in order. Where real TensorRT refuses (no batch dimension, half tensors without the FP16 flag, an open
batch without a profile, ...) this refuses, too. Runs under Python 3.6.
"""

import ctypes
import enum
import json
import types
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

#: the names that each generation has, with their sources
TABLE = json.loads(Path(__file__).with_name("tensorrt_versions.json").read_text(encoding="utf-8"))
VERSIONS = {
    "8.2": "8.2.1.8",
    "8.4": "8.4.1.5",
    "8.5": "8.5.2.2",
    "8.6": "8.6.2.3",
    "10.3": "10.3.0",
    "10.13": "10.13.3.9",
    "11": "11.4.0.106",
}
# classes that users derive from; pybind11 insists that their __init__ is called
BASES = ("ILogger", "IProfiler", "IProgressMonitor", "IInt8EntropyCalibrator2")
# what users construct themselves
CONSTRUCTED = (*BASES, "Logger", "Builder", "Runtime", "OnnxParser")
_TYPES = {
    "tensor(float)": "FLOAT",
    "tensor(float16)": "HALF",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(int8)": "INT8",
}
_NUMPY = {"FLOAT": "f4", "HALF": "f2", "INT32": "i4", "INT64": "i8", "BOOL": "?", "UINT8": "u1", "INT8": "i1"}


class _Checked(type):
    """Refuses objects of derived classes that did not call the base's __init__."""

    def __call__(cls, *args, **kwargs):
        item = super().__call__(*args, **kwargs)
        if not item.__dict__.get("_made"):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return item


class Memory(bytes):
    """IHostMemory: a buffer."""


class FakeTensorRT(types.ModuleType):
    """The module; `calls` is the record, the other attributes that start with an underscore steer it."""

    def __init__(self, generation, cudart, fast_fp16=True, fast_int8=True):
        types.ModuleType.__init__(self, "tensorrt")
        self.__version__ = VERSIONS[generation]
        self._generation = tuple(int(part) for part in generation.split("."))
        self._table = table = TABLE["generations"][generation]
        self._cudart = cudart
        self._calls = []
        self._refuse_build = ""
        self._reads_no_timings = False
        self._makes_nothing = False
        self._speed = {"platform_has_fast_fp16": fast_fp16, "platform_has_fast_int8": fast_int8}
        for name, members in table["enums"].items():
            if "." not in name:
                setattr(self, name, enum.IntEnum(name, members, start=0))
        for name, members in table["classes"].items():
            setattr(self, name, _make_class(self, name, members))
        severity = enum.IntEnum("Severity", table["enums"]["ILogger.Severity"], start=0)
        for owner in (self.ILogger, self.Logger):
            owner.Severity = severity
            for member in severity:  # pybind11's export_values
                setattr(owner, member.name, member)
        for name in table["functions"]:
            setattr(self, name, getattr(_Functions(self), name))

    def _note(self, text):
        self._calls.append(text)

    def _new(self, name, **state):
        item = object.__new__(getattr(self, name))
        item.__dict__.update(state, _made=True)
        return item


class _Functions:
    def __init__(self, trt):
        self.trt = trt

    def init_libnvinfer_plugins(self, logger, namespace):
        assert isinstance(logger, self.trt.ILogger)
        self.trt._note(f"init_libnvinfer_plugins({namespace!r})")
        return True

    def get_plugin_registry(self):
        raise NotImplementedError


def _make_class(trt, name, members):
    behaviour = globals().get(f"_{name}")
    names = {}
    for method in members["methods"]:
        names[method] = _method(trt, name, method, behaviour)
    for prop in members["properties"]:
        names[prop] = _property(trt, name, prop, behaviour, True)
    for prop in members["readonly"]:
        names[prop] = _property(trt, name, prop, behaviour, False)

    def __init__(self, *args, **kwargs):
        if name not in CONSTRUCTED:
            raise TypeError(f"tensorrt.{name}: No constructor defined!")
        self.__dict__["_made"] = True
        if behaviour is not None and hasattr(behaviour, "make"):
            trt._note(f"{name}()")
            behaviour.make(trt, self, *args, **kwargs)

    def __setattr__(self, key, value):
        if type(self).__name__ == name and key not in members["properties"]:
            raise AttributeError(f"'tensorrt.{name}' object has no attribute {key!r} or it cannot be set")
        object.__setattr__(self, key, value)

    names.update({"__init__": __init__, "__setattr__": __setattr__})
    return _Checked(name, (trt.ILogger,) if name == "Logger" else (), names)


def _method(trt, owner, name, behaviour):
    action = getattr(behaviour, name, None)

    def call(self, *args, **kwargs):
        if action is None:
            raise NotImplementedError(f"{owner}.{name}")
        return action(trt, self, *args, **kwargs)

    call.__name__ = name
    return call


def _property(trt, owner, name, behaviour, writable):
    getter = getattr(behaviour, "get_" + name, None)

    def read(self):
        if getter is not None:
            return getter(trt, self)
        return self.__dict__.get("_" + name)

    def write(self, value):
        shown = value.name if isinstance(value, enum.Enum) else value
        trt._note(f"{owner}.{name} = {shown if isinstance(shown, (int, str)) else type(shown).__name__}")
        self.__dict__["_" + name] = value

    return property(read, write if writable else None)


def _plain(message):
    return " ".join(message.split())


# Behaviour: static functions (trt, self, ...) for what darkprune uses; everything else raises NotImplementedError.


class _Builder:
    @staticmethod
    def make(trt, self, logger):
        assert isinstance(logger, trt.ILogger)
        if trt._makes_nothing:
            logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        trt._logger = self.__dict__["_logger"] = logger

    @staticmethod
    def get_platform_has_fast_fp16(trt, self):
        return trt._speed["platform_has_fast_fp16"]

    @staticmethod
    def get_platform_has_fast_int8(trt, self):
        return trt._speed["platform_has_fast_int8"]

    @staticmethod
    def create_network(trt, self, flags=0):
        names = [flag.name for flag in trt.NetworkDefinitionCreationFlag if flags >> flag & 1]
        trt._note(f"Builder.create_network({'|'.join(names) or flags})")
        assert flags >> len(trt.NetworkDefinitionCreationFlag) == 0, "a flag that this generation does not know"
        return trt._new("INetworkDefinition", _flags=names)

    @staticmethod
    def create_builder_config(trt, self):
        trt._note("Builder.create_builder_config()")
        return trt._new("IBuilderConfig", _set={"TF32"}, _profiles=[])

    @staticmethod
    def create_optimization_profile(trt, self):
        trt._note("Builder.create_optimization_profile()")
        return trt._new("IOptimizationProfile", _shapes={})

    @staticmethod
    def build_serialized_network(trt, self, network, config):
        trt._note("Builder.build_serialized_network()")
        reason = trt._refuse_build or _refusal(trt, network, config)
        if reason:
            self._logger.log(trt.ILogger.Severity.ERROR, reason)
            return None
        if "INT8" in config._set and config.__dict__.get("_int8_calibrator") is not None:
            _calibrate(trt, network, config)
        monitor = config.__dict__.get("_progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building Engine", None, 2)
            for step in range(2):
                if not monitor.step_complete("Building Engine", step):
                    trt._note("build cancelled")
                    return None
            monitor.phase_finish("Building Engine")
        head = {"version": trt.__version__, "gpu": trt._cudart.name, "flags": sorted(config._set)}
        return Memory(json.dumps(head).encode() + b"\n" + network._content)


def _refusal(trt, network, config):
    if network._parser() is None:
        return "the parser is gone, and with it the weights"
    weak = hasattr(trt.BuilderFlag, "FP16")
    if weak and network._half and "FP16" not in config._set:
        return "half tensors, but the FP16 flag is not set"
    if weak and network._quantised and "INT8" not in config._set:
        return "Q/DQ layers, but the INT8 flag is not set"
    if "INT8" in config._set and not network._quantised and config.__dict__.get("_int8_calibrator") is None:
        return "INT8 without a calibrator or ranges"
    for name, shape, _ in network._inputs:
        if -1 in shape:
            if not config._profiles:
                return f"{name}: dynamic dimensions, but no optimization profile"
            if name not in config._profiles[0]._shapes:
                return f"{name}: not in the optimization profile"
            if "_int8_calibrator" in config.__dict__ and "_calibration_profile" not in config.__dict__:
                return f"{name}: dynamic dimensions, but no calibration profile"
    return ""


def _calibrate(trt, network, config):
    calibrator = config._int8_calibrator
    size = calibrator.get_batch_size()
    content = calibrator.read_calibration_cache()
    if content is not None:
        trt._note(f"calibration from a cache of {len(content)} bytes")
        trt._calibration = bytes(content)
        return
    name, shape, _ = network._inputs[0]
    rounds, total = 0, 0.0
    while True:
        addresses = calibrator.get_batch([name])
        if addresses is None:
            break
        count = size * int(np.prod(shape[1:]))
        assert trt._cudart.holds(addresses[0], 4 * count)
        batch = np.frombuffer(ctypes.string_at(addresses[0], 4 * count), np.float32)
        rounds, total = rounds + 1, total + float(batch.sum())
    trt._note(f"calibration with {rounds} batches of {size}")
    calibrator.write_calibration_cache(Memory(f"TRT-{total:.3f}\n".encode()))


class _INetworkDefinition:
    @staticmethod
    def get_num_inputs(trt, self):
        return len(self._inputs)

    @staticmethod
    def get_input(trt, self, index):
        name, shape, kind = self._inputs[index]
        return trt._new("ITensor", _name=name, _shape=shape, _dtype=kind)


class _OnnxParser:
    @staticmethod
    def make(trt, self, network, logger):
        assert isinstance(network, trt.INetworkDefinition)
        assert isinstance(logger, trt.ILogger)
        self.__dict__.update(_network=network, _errors=[])
        network.__dict__["_parser"] = weakref.ref(self)

    @staticmethod
    def parse_from_file(trt, self, model):
        trt._note("OnnxParser.parse_from_file()")
        if trt._generation < (10,) and "EXPLICIT_BATCH" not in self._network._flags:
            self._errors.append("this version of the parser only supports networks with an explicit batch")
            return False
        try:
            with open(model, "rb") as file:
                content = file.read()
            proto = onnx.load_from_string(content)
            session = _session(content)
        except Exception as error:
            self._errors.append(f"Failed to parse: {_plain(str(error))}")
            return False
        half = any(item.data_type == onnx.TensorProto.FLOAT16 for item in proto.graph.initializer)
        self._network.__dict__.update(
            _content=content,
            _inputs=[_fact(trt, item) for item in session.get_inputs()],
            _half=half,
            _quantised=any(node.op_type == "QuantizeLinear" for node in proto.graph.node),
        )
        return True

    @staticmethod
    def get_num_errors(trt, self):
        return len(self._errors)

    @staticmethod
    def get_error(trt, self, index):
        return trt._new("ParserError", _text=self._errors[index])


class _ParserError:
    @staticmethod
    def desc(trt, self):
        return self._text


class _IBuilderConfig:
    @staticmethod
    def set_flag(trt, self, flag):
        assert isinstance(flag, trt.BuilderFlag)
        trt._note(f"IBuilderConfig.set_flag({flag.name})")
        self._set.add(flag.name)

    @staticmethod
    def clear_flag(trt, self, flag):
        trt._note(f"IBuilderConfig.clear_flag({flag.name})")
        self._set.discard(flag.name)

    @staticmethod
    def set_memory_pool_limit(trt, self, pool, pool_size):
        trt._note(f"IBuilderConfig.set_memory_pool_limit({pool.name}, {pool_size})")

    @staticmethod
    def add_optimization_profile(trt, self, profile):
        trt._note("IBuilderConfig.add_optimization_profile()")
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @staticmethod
    def set_calibration_profile(trt, self, profile):
        trt._note("IBuilderConfig.set_calibration_profile()")
        self.__dict__["_calibration_profile"] = profile
        return True

    @staticmethod
    def create_timing_cache(trt, self, serialized_timing_cache):
        trt._note(f"IBuilderConfig.create_timing_cache({len(serialized_timing_cache)} bytes)")
        if trt._reads_no_timings and serialized_timing_cache:  # what is damaged becomes an empty one, and a warning
            warning = "Failed to deserialize timing cache. Returning an empty timing cache."
            trt._logger.log(trt.ILogger.Severity.WARNING, warning)
            serialized_timing_cache = b""
        return trt._new("ITimingCache", _content=bytes(serialized_timing_cache))

    @staticmethod
    def set_timing_cache(trt, self, cache, ignore_mismatch):
        fits = cache._content in (b"", trt.__version__.encode())
        trt._note(f"IBuilderConfig.set_timing_cache(ignore_mismatch={ignore_mismatch})")
        return fits or ignore_mismatch

    @staticmethod
    def get_timing_cache(trt, self):
        return trt._new("ITimingCache", _content=trt.__version__.encode())


class _ITimingCache:
    @staticmethod
    def serialize(trt, self):
        trt._note("ITimingCache.serialize()")
        return Memory(self._content)


class _IOptimizationProfile:
    @staticmethod
    def set_shape(trt, self, input, min, opt, max):
        shapes = [tuple(shape) for shape in (min, opt, max)]
        trt._note(f"IOptimizationProfile.set_shape({input}, {shapes[0]}, {shapes[1]}, {shapes[2]})")
        self._shapes[input] = shapes


class _Runtime:
    @staticmethod
    def make(trt, self, logger):
        assert isinstance(logger, trt.ILogger)
        if trt._makes_nothing:
            logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        trt._logger = self.__dict__["_logger"] = logger

    @staticmethod
    def deserialize_cuda_engine(trt, self, serialized_engine):
        trt._note("Runtime.deserialize_cuda_engine()")
        head, _, content = bytes(serialized_engine).partition(b"\n")
        try:
            facts = json.loads(head.decode())
        except ValueError:
            facts = {}
        if (facts.get("version"), facts.get("gpu")) != (trt.__version__, trt._cudart.name):
            self._logger.log(trt.ILogger.Severity.ERROR, "1: [stdArchiveReader.cpp] Serialization assertion failed")
            return None
        session = _session(content)
        tensors = [(True, *_fact(trt, item)) for item in session.get_inputs()]
        tensors += [(False, *_fact(trt, item)) for item in session.get_outputs()]
        return trt._new("ICudaEngine", _session=session, _tensors=tensors, _facts=facts, _content=content)


class _ICudaEngine:
    """Bindings before 8.5, named tensors from 8.5 on."""

    @staticmethod
    def get_num_bindings(trt, self):
        return len(self._tensors)

    @staticmethod
    def get_binding_name(trt, self, index):
        return self._tensors[index][1]

    @staticmethod
    def get_binding_shape(trt, self, index):
        return self._tensors[index][2]

    @staticmethod
    def get_binding_dtype(trt, self, index):
        return self._tensors[index][3]

    @staticmethod
    def binding_is_input(trt, self, index):
        return self._tensors[index][0]

    @staticmethod
    def get_num_io_tensors(trt, self):
        return len(self._tensors)

    @staticmethod
    def get_tensor_name(trt, self, index):
        return self._tensors[index][1]

    @staticmethod
    def _find(self, name):
        return next(item for item in self._tensors if item[1] == name)

    @staticmethod
    def get_tensor_mode(trt, self, name):
        return trt.TensorIOMode.INPUT if _ICudaEngine._find(self, name)[0] else trt.TensorIOMode.OUTPUT

    @staticmethod
    def get_tensor_shape(trt, self, name):
        return _ICudaEngine._find(self, name)[2]

    @staticmethod
    def get_tensor_dtype(trt, self, name):
        return _ICudaEngine._find(self, name)[3]

    @staticmethod
    def create_execution_context(trt, self):
        trt._note("ICudaEngine.create_execution_context()")
        return trt._new("IExecutionContext", _engine=self, _shapes={}, _addresses={})

    @staticmethod
    def create_engine_inspector(trt, self):
        trt._note("ICudaEngine.create_engine_inspector()")
        return trt._new("EngineInspector", _engine=self)


class _EngineInspector:
    @staticmethod
    def get_engine_information(trt, self, format):
        assert format == trt.LayerInformationFormat.JSON
        flags = self._engine._facts["flags"]
        model = onnx.load_from_string(self._engine._content)
        if trt._generation >= (11,):  # the type of the file's tensors, in a field of its own
            half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
            told = {"Datatype": "Half" if half else "Float", "Format": "(Linear) Row major linear format"}
        else:
            told = {"Format/Datatype": f"Row major linear {'FP16' if 'FP16' in flags else 'FP32'} format"}
        layers = [
            {
                "Name": node.name or node.output[0],
                "LayerType": node.op_type,
                "Outputs": [{"Name": node.output[0], **told}],
            }
            for node in model.graph.node
        ]
        return json.dumps({"Layers": layers, "Bindings": []})


class _IExecutionContext:
    @staticmethod
    def _resolved(self, item):
        _, name, shape, _ = item
        if name in self._shapes:
            return self._shapes[name]
        batch = next((given[0] for given in self._shapes.values()), -1)
        return tuple(batch if size < 0 else size for size in shape)

    @staticmethod
    def set_binding_shape(trt, self, binding, shape):
        trt._note(f"IExecutionContext.set_binding_shape({binding}, {tuple(shape)})")
        self._shapes[self._engine._tensors[binding][1]] = tuple(shape)
        return True

    @staticmethod
    def get_binding_shape(trt, self, binding):
        return _IExecutionContext._resolved(self, self._engine._tensors[binding])

    @staticmethod
    def set_input_shape(trt, self, name, shape):
        trt._note(f"IExecutionContext.set_input_shape({name}, {tuple(shape)})")
        self._shapes[name] = tuple(shape)
        return True

    @staticmethod
    def get_tensor_shape(trt, self, name):
        return _IExecutionContext._resolved(self, _ICudaEngine._find(self._engine, name))

    @staticmethod
    def set_tensor_address(trt, self, name, memory):
        trt._note(f"IExecutionContext.set_tensor_address({name})")
        self._addresses[name] = memory
        return True

    @staticmethod
    def execute_async_v2(trt, self, bindings, stream_handle):
        trt._note("IExecutionContext.execute_async_v2()")
        assert len(bindings) == len(self._engine._tensors)
        addresses = {item[1]: bindings[index] for index, item in enumerate(self._engine._tensors)}
        return _run(trt, self, addresses, stream_handle)

    @staticmethod
    def execute_async_v3(trt, self, stream_handle):
        trt._note("IExecutionContext.execute_async_v3()")
        return _run(trt, self, self._addresses, stream_handle)


def _run(trt, context, addresses, stream):
    assert stream in trt._cudart.streams
    engine = context._engine
    feeds = {}
    for item in engine._tensors:
        is_input, name, _, dtype = item
        shape = _IExecutionContext._resolved(context, item)
        assert -1 not in shape, f"{name}: shape not set"
        if is_input:
            nbytes = int(np.prod(shape)) * np.dtype(_NUMPY[dtype.name]).itemsize
            assert trt._cudart.holds(addresses[name], nbytes)
            data = ctypes.string_at(addresses[name], nbytes)
            feeds[name] = np.frombuffer(data, _NUMPY[dtype.name]).reshape(shape)
    outputs = [item for item in engine._tensors if not item[0]]
    arrays = engine._session.run([item[1] for item in outputs], feeds)
    for index, item in enumerate(outputs):
        array = arrays[index]
        assert array.shape == tuple(_IExecutionContext._resolved(context, item))
        assert trt._cudart.holds(addresses[item[1]], array.nbytes)
        ctypes.memmove(addresses[item[1]], np.ascontiguousarray(array).ctypes.data, array.nbytes)
    profiler = context.__dict__.get("_profiler")
    if profiler is not None:
        for index, node in enumerate(onnx.load_from_string(engine._content).graph.node):
            profiler.report_layer_time(node.name or node.output[0], 0.25 * (index + 1))
    return True


def _session(content):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _fact(trt, item):
    shape = tuple(size if isinstance(size, int) else -1 for size in item.shape)
    return item.name, shape, getattr(trt.DataType, _TYPES[item.type])
