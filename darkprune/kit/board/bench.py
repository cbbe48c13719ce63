"""Measure the engine of this kit: python3 bench.py

Before measuring a Jetson: sudo nvpmodel -m 0; sudo jetson_clocks. Times are of the wall clock and include the copies
to and from the GPU; with --image also darknet's resize, decoding and suppression.
"""

import argparse
import json
import os
import sys
import time
from typing import Callable, Dict, List

import numpy as np

from darkprune.kit.board.runtime import RuntimeFailure
from darkprune.kit.board.runtime.command import open_kit_engine, run
from darkprune.kit.board.runtime.compare import reference_input
from darkprune.kit.board.runtime.detector import Detector
from darkprune.kit.board.runtime.files import check_file, write_atomic
from darkprune.kit.board.runtime.model import load_model
from darkprune.kit.board.runtime.pictures import read_image

HERE = os.path.dirname(os.path.abspath(__file__))


def measure(step: Callable[[], object], warmup: int, runs: int) -> List[float]:
    """Returns the milliseconds of each of `runs` calls, after `warmup` calls that do not count."""
    for _ in range(warmup):
        step()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - started))
    return times


def summary(times: List[float], batch: int) -> Dict[str, float]:
    """Returns median, 90th and 99th percentile in milliseconds, and images per second at the median."""
    median, p90, p99 = [float(value) for value in np.percentile(times, [50, 90, 99])]
    return {"median_ms": median, "p90_ms": p90, "p99_ms": p99, "images_per_s": 1000 * batch / median}


def main() -> int:
    """Measures and prints; --json writes the figures for a program to read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="", metavar="FILE")
    parser.add_argument("--warmup", type=int, default=50, metavar="N")
    parser.add_argument("--runs", type=int, default=200, metavar="N")
    parser.add_argument("--image", metavar="FILE", help="measure the whole way from this picture to detections, too")
    parser.add_argument("--layers", type=int, default=0, metavar="N", help="show the N slowest layers")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a new file")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier file of --json")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        raise RuntimeFailure("--runs {}: at least 1".format(arguments.runs))
    if arguments.json:
        check_file(arguments.json, arguments.overwrite)

    model = load_model(HERE)
    session = open_kit_engine(HERE, arguments.engine, model)
    detector = Detector(session, model)
    tensor = session.inputs[0]
    batch = tensor.shape[0]
    feeds = {tensor.name: reference_input(tensor.shape)}
    times = {"engine": summary(measure(lambda: session.run(feeds), arguments.warmup, arguments.runs), batch)}
    report: Dict[str, object] = {"batch": batch}
    if session.facts is not None:
        report.update({key: session.facts[key] for key in ("tensorrt", "gpu", "precision") if key in session.facts})
    if arguments.image:
        image = read_image(arguments.image, model.input.channels)
        times["whole"] = summary(measure(lambda: detector.detect([image]), 5, arguments.runs), 1)
    for key, figures in times.items():
        print(
            "{}: median {median_ms:.2f} ms, p90 {p90_ms:.2f} ms, p99 {p99_ms:.2f} ms, "
            "{images_per_s:.1f} images/s".format(key, **figures)
        )
    report.update(times)
    if arguments.layers:
        layers = session.layer_times(feeds)
        report["layers"] = layers
        total = sum(milliseconds for _, milliseconds in layers) or 1.0
        for name, milliseconds in sorted(layers, key=lambda item: -item[1])[: arguments.layers]:
            print("{:8.3f} ms {:5.1f} %  {}".format(milliseconds, 100 * milliseconds / total, name))
    session.close()
    if arguments.json:
        write_atomic(arguments.json, json.dumps(report, indent=1).encode("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
