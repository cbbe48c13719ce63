"""Time and memory of surgery: `darkprune prune` on yolov4 against the disk's own floor.

    python tools/bench_surgery.py [--runs 5] [--ratio 0.4]

The floor reads the input once and writes as many bytes as the slim weights have, with fsync; Python's own start is
measured apart. Everything is a whole process, alternated in one run; figures are medians, with smallest and largest.
Python finds compiled modules, as it does in an installed package, also where the environment forbids it to write them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLOOR = """
import os, sys
source, target, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
block = bytearray(1 << 20)
with open(source, "rb", buffering=0) as file:
    while file.readinto(block):
        pass
with open(target, "wb", buffering=0) as file:
    while size > 0:
        size -= file.write(block[: min(size, len(block))])
    os.fsync(file.fileno())
"""


def measure(command: list[str], compiled: Path) -> tuple[float, float]:
    """Runs a command, with a folder for compiled modules; returns wall seconds and peak resident MB of that process."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return wall, usage.ru_maxrss / (1 if sys.platform == "darwin" else 1024)


def show(name: str, values: list[float], unit: str) -> None:
    print(f"{name:28} {statistics.median(values):8.3f} {unit}   ({min(values):.3f} to {max(values):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ratio", default="0.4")
    parser.add_argument("--cfg", default="builtin:yolov4")
    args = parser.parse_args()
    program = [sys.executable, "-m", "darkprune"]
    with tempfile.TemporaryDirectory(prefix="darkprune-bench-") as name:
        folder = Path(name)
        weights, slim, compiled = folder / "network.weights", folder / "slim", folder / "compiled"
        init = [*program, "init", args.cfg, "-o", str(weights), "--vary"]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
        prune = [*program, "prune", args.cfg, str(weights), "--ratio", args.ratio, "-o", str(slim), "--json"]
        measure(prune, compiled)
        size = next(slim.glob("*.weights")).stat().st_size
        print(f"input {weights.stat().st_size / 1e6:.1f} MB, result {size / 1e6:.1f} MB, {args.runs} runs")
        floors, starts, walls, peaks, ratios = [], [], [], [], []
        for _ in range(args.runs):
            floor, _ = measure([sys.executable, "-c", FLOOR, str(weights), str(folder / "floor"), str(size)], compiled)
            start, _ = measure([sys.executable, "-c", "import numpy"], compiled)
            shutil.rmtree(slim)
            wall, peak = measure(prune, compiled)
            floors.append(floor)
            starts.append(start)
            walls.append(wall)
            peaks.append(peak)
            ratios.append((wall - start) / floor)
    show("floor: read, write, fsync", floors, "s")
    show("start of Python with numpy", starts, "s")
    show("darkprune prune", walls, "s")
    show("(prune - start) / floor", ratios, "x")
    show("peak resident memory", peaks, "MB")


if __name__ == "__main__":
    main()
