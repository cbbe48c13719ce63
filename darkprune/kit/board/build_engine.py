"""Build the TensorRT engine of this kit on this board: python3 build_engine.py

It takes about 1 minute on an Orin and 10 to 20 on a Nano. The engine works on this board only, with this JetPack.
"""

import argparse
import os
import sys
from typing import Iterator

import numpy as np

from darkprune.kit.board.runtime import RuntimeFailure, TensorRT
from darkprune.kit.board.runtime.build import BuildOptions, build
from darkprune.kit.board.runtime.callbacks import with_version
from darkprune.kit.board.runtime.command import ENGINE, import_tensorrt, run
from darkprune.kit.board.runtime.compare import compare, load_reference, reference_input, tolerance
from darkprune.kit.board.runtime.cuda import Cuda
from darkprune.kit.board.runtime.files import check_file, read_bytes, write_atomic
from darkprune.kit.board.runtime.metadata import save
from darkprune.kit.board.runtime.model import Model, load_model, onnx_path
from darkprune.kit.board.runtime.pictures import picture_files, read_image, to_input
from darkprune.kit.board.runtime.session import open_engine

HERE = os.path.dirname(os.path.abspath(__file__))


def say(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def calibration_images(folder: str, model: Model) -> Iterator[np.ndarray]:
    """Yields pictures for INT8 calibration, fitted to the network's input as when detecting."""
    facts = model.input
    for path in picture_files(folder):
        image = read_image(path, facts.channels)
        yield to_input(image, facts.width, facts.height, facts.channels, facts.letterbox)


def adopt_cache(path: str, version: str) -> None:
    """Writes this board's TensorRT version into the calibration cache's header; DeepStream reads it by itself."""
    if os.path.isfile(path):
        content = read_bytes(path)
        adopted = with_version(content, version)
        if adopted != content:
            write_atomic(path, adopted)


def main() -> int:
    """Builds and writes the engine, loads it again and compares it with the outputs that came with the kit."""
    model = load_model(HERE)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default=model.precision)
    parser.add_argument("--calibrate", metavar="DIR", help="pictures for INT8; the kit's calibration.cache otherwise")
    parser.add_argument("--workspace", type=int, metavar="MB", default=model.workspace_mb)
    parser.add_argument("--timing-cache", metavar="FILE", default=os.path.join(HERE, "timing.cache"))
    parser.add_argument("--no-tf32", action="store_true", help="exact FP32 on Orin and newer")
    parser.add_argument("--output", metavar="FILE", default=os.path.join(HERE, ENGINE))
    arguments = parser.parse_args()

    check_file(arguments.output, overwrite=True)
    trt = import_tensorrt()
    cuda = Cuda()
    gpu, capability = cuda.device()
    source = onnx_path(HERE, model)
    say("TensorRT {} on {}: {} in {}".format(trt.__version__, gpu, os.path.basename(source), arguments.precision))
    options = BuildOptions(
        precision=arguments.precision,
        file_precision=model.file_precision,
        workspace_mb=arguments.workspace,
        tf32=not arguments.no_tf32,
        timing_cache=arguments.timing_cache,
        calibration_cache=os.path.join(HERE, "calibration.cache"),
    )
    adopt_cache(options.calibration_cache, trt.__version__)
    images = calibration_images(arguments.calibrate, model) if arguments.calibrate else None
    result = build(trt, cuda, source, options, images, say)
    for remark in result.remarks:
        say("note: " + remark)
    save(
        arguments.output,
        result.engine,
        {
            "tensorrt": trt.__version__,
            "gpu": gpu,
            "capability": capability,
            "precision": arguments.precision,
            "onnx": os.path.basename(source),
            "onnx_sha256": model.onnx_sha256,
            "seconds": round(result.seconds, 1),
            "layers": result.layers,
        },
    )
    say("{}: {} layers, built in {:.0f} s".format(arguments.output, len(result.layers), result.seconds))
    exact = arguments.precision == "fp32" and model.file_precision == "fp32"
    return check(trt, cuda, arguments.output, model, tolerance(not arguments.no_tf32) if exact else float("inf"))


def check(trt: TensorRT, cuda: Cuda, path: str, model: Model, allowed: float) -> int:
    """Runs the engine on the reference's input and compares the outputs with onnxruntime's."""
    reference = load_reference(HERE)
    if not reference:
        say("not compared: the kit has no reference.npz")
        return 0
    session = open_engine(trt, cuda, path)
    outputs = session.run({model.input.name: reference_input(session.inputs[0].shape)})
    worst = compare(reference, outputs, say)
    session.close()
    if worst > allowed:
        raise RuntimeFailure(
            "the engine's numbers are off by {:.1e} of their range, {:.0e} is allowed: try --no-tf32".format(
                worst, allowed
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
