"""Time and memory of the conversion to ONNX: yolov4 at 416 (257 MB of weights), checked and written.

    python tools/bench_export.py [--runs 5] [--cfg builtin:yolov4] [--size 416] [--outputs heads]

Every figure is a whole process, alternated in one run; medians, with smallest and largest. The floor copies as many
bytes as the file has, with fsync; the start imports what any converter needs, numpy and onnx.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPORT = """
import sys
from pathlib import Path
from darkprune.onnx.check import check_structure
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.options import ExportOptions
from darkprune.graph.graph import read_graph, with_input_size
from darkprune.graph.weights import NetworkWeights
from darkprune.zoo import resolve
cfg, weights, size, outputs, target = sys.argv[1:]
graph = with_input_size(read_graph(resolve(cfg)), int(size), int(size))
with NetworkWeights(graph, Path(weights)) as pair:
    network = build_onnx(pair, ExportOptions("workstation", outputs=outputs))
    check_structure(network, graph)
    write_onnx(network, Path(target), overwrite=True)
"""

FLOOR = """
import os, sys
with open(sys.argv[1], "rb", buffering=0) as source, open(sys.argv[2], "wb", buffering=0) as target:
    while block := source.read(1 << 20):
        target.write(block)
    os.fsync(target.fileno())
"""


def measure(command: list[str]) -> tuple[float, float]:
    """Runs a command; returns wall seconds and peak resident MiB of that process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed: {' '.join(command)[:200]}")
    return wall, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def show(name: str, values: list[float], unit: str) -> None:
    print(f"{name:30} {statistics.median(values):8.3f} {unit}   ({min(values):.3f} to {max(values):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cfg", default="builtin:yolov4")
    parser.add_argument("--size", default="416")
    parser.add_argument("--outputs", default="heads")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="darkprune-bench-") as name:
        weights, target = Path(name) / "network.weights", Path(name) / "network.onnx"
        init = [sys.executable, "-m", "darkprune", "init", args.cfg, "-o", str(weights), "--vary"]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
        export = [sys.executable, "-c", EXPORT, args.cfg, str(weights), args.size, args.outputs, str(target)]
        measure(export)
        sizes = [path.stat().st_size / 1e6 for path in (weights, target)]
        print(f"weights {sizes[0]:.1f} MB, file {sizes[1]:.1f} MB, {args.runs} runs")
        floors, starts, walls, peaks = [], [], [], []
        for _ in range(args.runs):
            floors.append(measure([sys.executable, "-c", FLOOR, str(weights), str(Path(name) / "floor")])[0])
            starts.append(measure([sys.executable, "-c", "import numpy, onnx"])[0])
            wall, peak = measure(export)
            walls.append(wall)
            peaks.append(peak)
    show("floor: copy with fsync", floors, "s")
    show("start of Python, numpy, onnx", starts, "s")
    show("export: build, check, write", walls, "s")
    show("peak resident memory", peaks, "MiB")


if __name__ == "__main__":
    main()
