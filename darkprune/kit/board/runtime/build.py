"""Builds an engine from an ONNX file with the installed TensorRT, whatever its generation.

The calls and their order are the same everywhere; what differs stands in `dialects`.
"""

import json
import os
import time
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from . import RuntimeFailure, TensorRT
from .callbacks import create, make_calibrator, make_log, watch
from .cuda import Cuda
from .dialects import Dialect82, choose
from .files import check_file, read_bytes, write_atomic

Shape = Tuple[int, ...]


class BuildOptions(NamedTuple):
    """What the user may choose.

    `precision`: fp32, fp16 or int8. `file_precision`: what the ONNX file is written in: int8 with Q/DQ nodes, fp16
    with half tensors. `batch`: smallest, usual and largest batch size of a file that leaves it open. `timing_cache`:
    file that is read when it exists and written after; `calibration_cache`: read without images, written with them.
    `compute_capability`: of the GPU that a portable engine is for, such as 75; 0 for Ampere and later.
    """

    precision: str = "fp32"
    file_precision: str = "fp32"
    workspace_mb: int = 1024
    batch: Optional[Tuple[int, int, int]] = None
    tf32: bool = True
    timing_cache: str = ""
    calibration_cache: str = ""
    compute_capability: int = 0


class BuildResult(NamedTuple):
    """A serialised engine, a buffer; its layers as TensorRT describes them; remarks for the user; TensorRT's log."""

    engine: TensorRT
    seconds: float
    remarks: List[str]
    log: TensorRT
    layers: Sequence[Dict[str, str]] = ()


def build(
    trt: TensorRT,
    cuda: Optional[Cuda],
    onnx_path: str,
    options: BuildOptions,
    images: Optional[Iterable[np.ndarray]] = None,
    say: Callable[[str], None] = print,
) -> BuildResult:
    """Builds an engine for the GPU of this machine, and loads it to describe its layers.

    Args: see `serialize`.

    Raises:
        RuntimeFailure: TensorRT refuses, in its own words.
    """
    result = serialize(trt, cuda, onnx_path, options, images, say)
    return result._replace(layers=_layers(trt, result.log, result.engine))


def serialize(
    trt: TensorRT,
    cuda: Optional[Cuda],
    onnx_path: str,
    options: BuildOptions,
    images: Optional[Iterable[np.ndarray]] = None,
    say: Callable[[str], None] = print,
    detailed: bool = False,
) -> BuildResult:
    """Parses an ONNX file and builds an engine, without its layers. TensorRT for RTX needs no GPU for that.

    Args:
        trt: the imported `tensorrt` module.
        cuda: `Cuda`, for the calibration images; None where nothing is calibrated.
        onnx_path: file to convert; external data is read from beside it.
        options: precision, memory, caches.
        images: calibration pictures, (channels, height, width) float32 each, as the network takes them.
        say: takes one line of progress.
        detailed: keep all lines of TensorRT's log, among them a description of every kernel.

    Raises:
        RuntimeFailure: the parser or the builder refuses, in TensorRT's own words.
    """
    started = time.time()
    dialect = choose(trt)
    if options.timing_cache and dialect.keeps_timings:
        check_file(options.timing_cache, overwrite=True)  # before the build, which takes minutes
    if options.calibration_cache and images is not None:
        check_file(options.calibration_cache, overwrite=True)
    log = make_log(trt, detailed)
    builder, network, parser = parse(trt, onnx_path, log)

    config = builder.create_builder_config()
    dialect.set_workspace(config, options.workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.compute_capability:
        dialect.set_compute_capability(config, options.compute_capability)
    profile = _profile(builder, network, config, options.batch)
    calibrator = _calibrator(trt, cuda, dialect, network, options, images)
    remarks = dialect.set_precision(builder, config, options.precision, options.file_precision, calibrator, profile)
    if dialect.keeps_timings:
        remarks += _load_timings(config, options.timing_cache, log)
    elif options.timing_cache:
        remarks.append("{}: not used, TensorRT for RTX keeps no timings".format(options.timing_cache))

    with watch(trt, config, say) as watcher:
        engine = builder.build_serialized_network(network, config)
    del parser  # it owns weights that the network only points at, so it has to live until here
    if watcher.interrupted:
        raise KeyboardInterrupt
    if calibrator is not None and calibrator.failure is not None:
        raise RuntimeFailure("calibration: {}".format(calibrator.failure))
    if engine is None:
        raise RuntimeFailure("{}: TensorRT could not build it: {}".format(onnx_path, log.reason()))
    if options.timing_cache and dialect.keeps_timings:
        write_atomic(options.timing_cache, config.get_timing_cache().serialize())
    return BuildResult(engine, time.time() - started, remarks, log)


def parse(trt: TensorRT, onnx_path: str, log: TensorRT) -> Tuple[TensorRT, TensorRT, TensorRT]:
    """Reads an ONNX file into a network; returns builder, network, and the parser, which has to live as long as both.

    Raises:
        RuntimeFailure: the parser refuses the file, in TensorRT's own words.
    """
    if not os.path.isfile(onnx_path):
        raise RuntimeFailure("{}: no such file".format(onnx_path))
    trt.init_libnvinfer_plugins(log, "")
    builder = create(trt.Builder, log)
    network = builder.create_network(choose(trt).network_flags())
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(onnx_path):
        return builder, network, parser
    reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    raise RuntimeFailure("{}: the ONNX parser refuses it: {}".format(onnx_path, (reasons or [log.reason()])[0]))


def _profile(
    builder: TensorRT, network: TensorRT, config: TensorRT, batch: Optional[Tuple[int, int, int]]
) -> Optional[TensorRT]:
    """Returns an optimisation profile where the file leaves the batch size open, else None."""
    profile = None
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(int(size) for size in tensor.shape)
        if any(size < 0 for size in shape[1:]):
            raise RuntimeFailure("input {}: its image size is open, export it with a fixed one".format(tensor.name))
        if shape[0] >= 0:
            if batch is not None and set(batch) != {shape[0]}:
                raise RuntimeFailure(
                    "batch {}: the ONNX file has a fixed batch of {}, export it with --batch dynamic".format(
                        "/".join(str(size) for size in batch), shape[0]
                    )
                )
            continue
        if batch is None:
            raise RuntimeFailure("input {}: its batch size is open, give --batch MIN,USUAL,MAX".format(tensor.name))
        if profile is None:
            profile = builder.create_optimization_profile()
        low, usual, high = [(size, *shape[1:]) for size in batch]
        profile.set_shape(tensor.name, low, usual, high)
    if profile is not None:
        config.add_optimization_profile(profile)
    return profile


def _calibrator(
    trt: TensorRT,
    cuda: Optional[Cuda],
    dialect: Dialect82,
    network: TensorRT,
    options: BuildOptions,
    images: Optional[Iterable[np.ndarray]],
) -> Optional[TensorRT]:
    wanted = options.precision == "int8" and options.file_precision != "int8" and not dialect.precision_from_file
    if not wanted or cuda is None or (images is None and not os.path.isfile(options.calibration_cache)):
        return None
    # an open batch size is calibrated at the usual one of its profile
    size = int(network.get_input(0).shape[0]) if options.batch is None else options.batch[1]
    filled = None if images is None else batches(images, size)
    return make_calibrator(trt, cuda, filled, options.calibration_cache)


def batches(images: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Puts images into batches; the last one is filled up with its last image."""
    waiting: List[np.ndarray] = []
    for image in images:
        waiting.append(image)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:  # every picture counts
        yield np.stack(waiting + [waiting[-1]] * (size - len(waiting)))


def _load_timings(config: TensorRT, path: str, log: TensorRT) -> List[str]:
    """Gives the builder the timings of earlier builds; a remark when they are of no use."""
    if not path:
        return []
    content = read_bytes(path) if os.path.isfile(path) else b""
    log.warnings.clear()
    cache = config.create_timing_cache(content)
    # some releases take a cache that they cannot read for an empty one, and say so only in their log
    unread = any("timing cache" in warning.lower() for warning in log.warnings)
    if cache is not None and not unread and config.set_timing_cache(cache, False):
        return []
    # TensorRT refuses a cache of another version or GPU; the file is then rewritten from scratch
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return ["{}: damaged, or of another TensorRT or GPU: all tactics are timed anew".format(path)]


def _layers(trt: TensorRT, log: TensorRT, serialized: TensorRT) -> List[Dict[str, str]]:
    """Returns name, type and output format of each layer, from the engine inspector (TensorRT 8.2 and later)."""
    engine = create(trt.Runtime, log).deserialize_cuda_engine(serialized)
    if engine is None:
        raise RuntimeFailure("the engine that was just built does not load: {}".format(log.reason()))
    if not hasattr(engine, "create_engine_inspector"):
        return []
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        rows = json.loads(text).get("Layers", [])
    except (ValueError, RecursionError):
        return []
    return [_layer(row) for row in rows]


def _layer(row: object) -> Dict[str, str]:
    if not isinstance(row, dict):  # names only: an engine built with less verbosity
        return {"name": str(row), "type": "", "format": ""}
    outputs = row.get("Outputs") or [{}]
    # one text before TensorRT 11, two from then on
    parts = [outputs[0].get(key) for key in ("Format/Datatype", "Datatype", "Format")]
    return {
        "name": str(row.get("Name", "")),
        "type": str(row.get("LayerType", "")),
        "format": " ".join(str(part) for part in parts if part),
    }
