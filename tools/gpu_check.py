"""Checks what only a GPU shows: numbers and latency of TensorRT engines, and the speed of a training step.

    python tools/gpu_check.py [--minutes 8] [--networks yolov4-tiny,yolov4] [--size 416] [--device cuda] [--json FILE]

yolov4-tiny and yolov4 with fresh weights, as they are, pruned by 30 %, and so pruned with widths that are multiples of
8; each in FP32, FP16 and INT8 through the newest TensorRT that is installed: off from onnxruntime by how much, latency
side by side, time saved over operations saved. Then some training steps of yolov4 in mixed precision: images per
second, share of the time spent waiting for data. What does not fit into the minutes is left out, and named.

Without a GPU the pairs and files are made all the same (with TensorRT for RTX also planned), `--device cpu` makes two
training steps of two images, and the end is one line that says what is missing, with status 1. So far it has been tried
only so, and against the fakes of the tests: engines on a real GPU have not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

import darkprune as dp
from darkprune.data.scenes import CLASSES, draw_scene, write_scenes
from darkprune.errors import DarkpruneError
from darkprune.graph.classes import with_classes
from darkprune.graph.graph import resized
from darkprune.kit.board.runtime import RuntimeFailure
from darkprune.kit.board.runtime.command import import_tensorrt
from darkprune.onnx.check import OutputComparison
from darkprune.tensorrt.plan import plan_file, tensorrt_rtx
from darkprune.tensorrt.run import has_gpu

PRECISIONS = ("fp16", "fp32", "int8")  # the most useful first, should time run short
VARIANTS = {
    "plain": None,
    "pruned": dp.PruneSettings(ratio=0.3, force=True),
    "rounded": dp.PruneSettings(ratio=0.3, round_to=8, force=True),
}
TRAINED = "yolov4"
TRAINING_SECONDS = 75  #: kept for the training steps
CALIBRATION_IMAGES = 4


@dataclass
class Row:
    """A network in a precision; figures that were not measured are None.

    Attributes:
        macs: multiply-adds.
        kernels, megabytes: that TensorRT for RTX plans.
        build_seconds: of the engine.
        deviation: from onnxruntime, over the range of an output.
        milliseconds: median latency.
        saved: of the plain network's time.
        share: time saved over operations saved.
        failure: what went wrong.
    """

    network: str
    variant: str
    precision: str
    macs: int
    kernels: int | None = None
    megabytes: float | None = None
    build_seconds: float | None = None
    deviation: float | None = None
    milliseconds: float | None = None
    saved: float | None = None
    share: float | None = None
    failure: str = ""


class Check:
    """The work of one run.

    Attributes:
        rows: what was found.
        left_out: what there was no time for.
        missing: why no engine is built; empty where TensorRT and a GPU are at hand.
    """

    def __init__(self, folder: Path, size: str, seconds: float) -> None:
        self.folder = folder
        self.size = size
        self.end = time.monotonic() + seconds
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self.missing = missing()
        self.images = folder / "images"
        self.images.mkdir()
        for number in range(CALIBRATION_IMAGES):
            cv2.imwrite(str(self.images / f"{number}.png"), draw_scene(0, number, 416).image)

    def network(self, name: str) -> None:
        """Makes the pairs of a network, their files, and engines where that is possible."""
        pairs, longest = self._pairs(name), 0.0
        for precision in PRECISIONS:
            engines: dict[str, Path] = {}
            for variant, pair in pairs.items():
                if time.monotonic() + 1.2 * longest > self.end:
                    self.left_out.append(f"{name} {variant} {precision}")
                    continue
                started = time.monotonic()
                row = Row(name, variant, precision, resized(pair.graph, self.size).macs)
                self.rows.append(row)
                try:
                    self._measure(row, pair, engines)
                except DarkpruneError as error:
                    row.failure = str(error)
                longest = max(longest, time.monotonic() - started)
                show(row)
            self._latencies(name, precision, pairs, engines)

    def _pairs(self, name: str) -> dict[str, dp.Pair]:
        folder = self.folder / name
        folder.mkdir()
        shape = dp.load(f"builtin:{name}")
        dp.init(shape, folder / "fresh.weights", dp.InitSettings(vary=True))
        plain = dp.load(f"builtin:{name}", folder / "fresh.weights")
        pairs = {"plain": plain}
        for variant, settings in VARIANTS.items():
            if settings is not None:
                dp.prune(plain, settings, output=folder / variant)
                cfg = folder / variant / plain.cfg.name
                pairs[variant] = dp.load(cfg, cfg.with_suffix(".weights"))
        return pairs

    def _measure(self, row: Row, pair: dp.Pair, engines: dict[str, Path]) -> None:
        path = self.folder / row.network / f"{row.variant}-{row.precision}.onnx"
        half, narrow = row.precision == "fp16", row.precision == "int8"
        settings = dp.ExportSettings(
            target="workstation", size=self.size, static=True, check="none",
            fp16=half, int8=narrow, calibrate=self.images if narrow else None,
        )  # fmt: skip
        dp.export(pair, path, settings)
        if self.missing:
            plan = plan_file(path)
            if not plan.skipped:
                row.kernels, row.megabytes = len(plan.kernels), plan.bytes_written / 1e6
            path.unlink()
            return
        engine = path.with_suffix(".engine")
        timings = self.folder / "timings"
        # exact products in FP32, so that its numbers can be held to a tight limit
        built = dp.build_engine(
            path, engine, dp.EngineSettings(fp16=half, int8=narrow, tf32=False, timing_cache=timings)
        )
        row.build_seconds, row.deviation = built.seconds, worst(built.comparison)
        engines[row.variant] = engine
        path.unlink()

    def _latencies(self, name: str, precision: str, pairs: dict[str, dp.Pair], engines: dict[str, Path]) -> None:
        """Times each pruned network beside the plain one."""
        settings = dp.BenchSettings(runner="tensorrt", size=self.size, runs=100, warmup=20)
        rows = {row.variant: row for row in self.rows if (row.network, row.precision) == (name, precision)}
        for variant in engines:
            if variant == "plain" or "plain" not in engines:
                continue
            networks = [dp.load(pairs[which].cfg, engines[which]) for which in ("plain", variant)]
            try:
                result = dp.bench(networks[0], settings, against=networks[1])
            except DarkpruneError as error:
                rows[variant].failure = str(error)
                continue
            for which, timing in zip(("plain", variant), result.networks, strict=True):
                rows[which].milliseconds = timing.latency.median
            if result.gain is not None:
                rows[variant].saved, rows[variant].share = result.gain.time_saved, result.gain.share
            show(rows["plain"])
            show(rows[variant])

    def training(self, device: str) -> dict[str, float]:
        """Trains a network for some steps on drawn scenes.

        Raises:
            DarkpruneError: no torch, or no GPU for it.
            RuntimeError: torch fails, for want of memory, say.
        """
        if importlib.util.find_spec("torch") is None:
            raise DarkpruneError("torch is not installed: pip install 'darkprune[train]'")
        from bench_training import bench_steps

        steps, batch, subdivisions = (20, 32, 2) if device == "cuda" else (2, 2, 1)
        graph = with_classes(resized(dp.load(f"builtin:{TRAINED}").graph, self.size), len(CLASSES))
        data = str(write_scenes(self.folder / "scenes", 8 * batch, 8, size=416))
        args = Namespace(device=device, workers=None, steps=steps, batch=batch, subdivisions=subdivisions)
        figures, _ = bench_steps(graph, args, self.folder, data)
        return figures


def missing() -> str:
    """Says what engines cannot be built or run without; empty where all is at hand."""
    try:
        trt = import_tensorrt()
    except RuntimeFailure as error:
        return str(error).partition(",")[0]
    return "" if has_gpu() else f"{trt.__name__} {trt.__version__} is here, but no GPU that CUDA can use"


def worst(comparison: OutputComparison) -> float | None:
    """Returns the deviation of the output that is off most; None where nothing was compared."""
    return comparison.worst[1] if comparison.deviations else None


def show(row: Row) -> None:
    """Prints a row as far as it is known."""
    parts = [f"{row.network:12} {row.variant:8} {row.precision}: {row.macs / 1e9:6.2f} GMAC"]
    if row.kernels is not None:
        parts.append(f"{row.kernels} kernels write {row.megabytes:.1f} MB (plan of TensorRT for RTX)")
    if row.build_seconds is not None:
        parts.append(f"built in {row.build_seconds:.0f} s")
    if row.deviation is not None:
        parts.append(f"off by {row.deviation:.1e}")
    if row.milliseconds is not None:
        parts.append(f"{row.milliseconds:.3f} ms")
    if row.saved is not None and row.share is not None:
        parts.append(f"{100 * row.saved:.0f} % of the time saved, {row.share:.2f} of the operations'")
    if row.failure:
        parts.append(f"FAILED: {row.failure}")
    print(", ".join(parts), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--networks", default="yolov4-tiny,yolov4")
    parser.add_argument("--size", default="416")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="for the training steps")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="darkprune-gpu-") as name:
        check = Check(Path(name), args.size, 60 * args.minutes - TRAINING_SECONDS)
        if not check.missing:
            print(f"{import_tensorrt().__name__} {import_tensorrt().__version__}")
        for network in args.networks.split(","):
            check.network(network)
        try:
            training = check.training(args.device)
        except (DarkpruneError, RuntimeError) as error:
            training = None
            print(f"no training step: {error}", file=sys.stderr)
    if training is not None:
        speed, waiting = training["images_per_second"], 100 * training["waiting"]
        on = f"{TRAINED} at {args.size} on {args.device}"
        print(f"training {on}: {speed:.1f} images/s, {waiting:.0f} % of the time waiting for data")
    for text in check.left_out:
        print(f"left out for want of time: {text}")
    if args.json:
        report = {"rows": [asdict(row) for row in check.rows], "training": training, "left_out": check.left_out}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    failed = [row for row in check.rows if row.failure]
    if check.missing:
        planned = "exported and planned by TensorRT for RTX" if tensorrt_rtx() is not None else "exported"
        print(
            f"no engine was run: {check.missing}; {len(check.rows) - len(failed)} files were {planned}", file=sys.stderr
        )
    return 1 if failed or check.missing or training is None else 0


if __name__ == "__main__":
    sys.exit(main())
