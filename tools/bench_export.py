"""Time and memory of the conversion to ONNX: yolov4 at 416 (258 MB of weights).

    python tools/bench_export.py [--runs 5] [--cfg builtin:yolov4] [--size 416] [--outputs heads]
    python tools/bench_export.py --peer 'darknet2onnx -i {weights} -o {onnx}'

Every figure is a whole process, alternated in one run; medians, with smallest and largest. The floor copies as many
bytes as the file has, with fsync; the start imports what any converter needs, numpy and onnx. A peer is another
converter: `{cfg}`, `{weights}` and `{onnx}` stand for its files.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from darkprune.graph.graph import read_graph, resized
from darkprune.zoo import resolve

FLOOR = """
import os, sys
with open(sys.argv[1], "rb", buffering=0) as source, open(sys.argv[2], "wb", buffering=0) as target:
    while block := source.read(1 << 20):
        target.write(block)
    os.fsync(target.fileno())
"""


class Cost(NamedTuple):
    """Of a process: seconds of the wall clock and of all processors, and MiB of memory at its peak."""

    wall: float
    processors: float
    peak: float


def measure(command: list[str], folder: Path) -> Cost:
    """Runs a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed: {shlex.join(command)[:200]}")
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def show(name: str, costs: list[Cost]) -> None:
    """Prints a row: median, smallest and largest wall time, medians of the others."""
    walls = [cost.wall for cost in costs]
    processors, peak = (statistics.median(values) for values in list(zip(*costs, strict=True))[1:])
    span = f"({min(walls):.2f} to {max(walls):.2f})"
    print(f"{name:28} {statistics.median(walls):7.2f} s {span:18} {processors:7.2f} s of processors {peak:7.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cfg", default="builtin:yolov4")
    parser.add_argument("--size", default="416")
    parser.add_argument("--outputs", default="heads")
    parser.add_argument("--peer", action="append", default=[], metavar="COMMAND")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="darkprune-bench-") as name:
        folder = Path(name)
        files = {kind: str(folder / f"network.{kind}") for kind in ("cfg", "weights", "onnx")}
        Path(files["cfg"]).write_bytes(resized(read_graph(resolve(args.cfg)), args.size).cfg.encode())
        program = [sys.executable, "-m", "darkprune"]
        subprocess.run(
            [*program, "init", files["cfg"], "-o", files["weights"], "--vary"], check=True, stdout=subprocess.DEVNULL
        )
        export = [*program, "export", files["cfg"], files["weights"], "-o", files["onnx"], "--overwrite"]
        export += ["--outputs", args.outputs]
        commands = {
            "floor: copy with fsync": [sys.executable, "-c", FLOOR, files["weights"], str(folder / "floor")],
            "start of Python, numpy, onnx": [sys.executable, "-c", "import numpy, onnx"],
            "export --static": [*export, "--static"],
            "export, compared": export,
        }
        for number, peer in enumerate(args.peer, start=1):
            commands[f"peer {number}"] = shlex.split(peer.format(**{**files, "onnx": str(folder / "peer.onnx")}))
        costs: dict[str, list[Cost]] = {title: [] for title in commands}
        for _ in range(args.runs):
            for title, command in commands.items():
                costs[title].append(measure(command, folder))
        sizes = [Path(files[kind]).stat().st_size / 1e6 for kind in ("weights", "onnx")]
    print(f"weights {sizes[0]:.1f} MB, file {sizes[1]:.1f} MB, {args.runs} runs")
    for title, rows in costs.items():
        show(title, rows)
    for number, peer in enumerate(args.peer, start=1):
        print(f"peer {number}: {peer}")


if __name__ == "__main__":
    main()
