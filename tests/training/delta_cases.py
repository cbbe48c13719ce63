"""Cases for the losses' deltas: cfgs, inputs and labels that the real program was run on (see `golden_deltas.npz`).

The network is one 1x1 convolution with the identity as weights and a stride, so that the head reads exactly the
numbers given. `python -m tests.training.delta_cases REFDELTA` writes the golden file anew.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
GOLDEN = Path(__file__).with_name("golden_deltas.npz")
STRIDE = 4


@dataclass(frozen=True)
class Case:
    """One head, its keys, and how the input is drawn."""

    name: str
    section: str = "yolo"
    keys: dict[str, object] = field(default_factory=dict)
    classes: int = 3
    columns: int = 13
    rows: int = 11
    images: int = 2
    objects: int = 12
    seed: int = 1
    seen: int = 1_000_000
    crowded: bool = False
    new_coords: bool = False

    @property
    def anchors(self) -> int:
        return 2

    @property
    def features(self) -> int:
        return self.classes + (9 if self.section == "Gaussian_yolo" else 5)

    def cfg(self) -> str:
        channels = self.anchors * self.features
        keys: dict[str, object] = {
            "classes": self.classes,
            "num": 4,
            "anchors": "6,7, 12,9, 20,26, 40,30",
            "mask": "1,2",
        }
        if self.section == "region":
            keys = {"classes": self.classes, "num": 2, "coords": 4, "anchors": "1.2,1.6, 4.0,3.5", "softmax": 1}
        if self.new_coords:
            keys["new_coords"] = 1
        text = "".join(f"{key}={value}\n" for key, value in {**keys, **self.keys}.items())
        return (
            f"[net]\nbatch=1\nsubdivisions=1\nwidth={self.columns * STRIDE}\nheight={self.rows * STRIDE}\n"
            f"channels={channels}\nmax_batches=1000\n\n"
            f"[convolutional]\nfilters={channels}\nsize=1\nstride={STRIDE}\nactivation=linear\n\n"
            f"[{self.section}]\n{text}"
        )

    def raw(self) -> Floats:
        """Returns what the head reads: (images, channels, rows, columns)."""
        shape = (self.images, self.anchors, self.features, self.rows, self.columns)
        raw = _draws(self.seed, int(np.prod(shape))).reshape(shape) * 4 - 2
        if self.new_coords:
            raw = np.float32(1) / (np.float32(1) + np.exp(-raw, dtype=np.float32))
        return np.asarray(raw, np.float32).reshape(self.images, -1, self.rows, self.columns)

    def labels(self) -> list[Floats]:
        """Returns per image (n, 5): class, cx, cy, w, h; objects of a crowded case share cells."""
        found = []
        for image in range(self.images):
            draws = _draws(1000 + 17 * self.seed + image, 5 * self.objects).reshape(self.objects, 5)
            rows = np.zeros_like(draws)
            rows[:, 0] = np.floor(draws[:, 0] * self.classes)
            spread = np.float32(0.12 if self.crowded else 0.9)
            rows[:, 1:3] = np.float32(0.05) + draws[:, 1:3] * spread
            rows[:, 3:] = np.float32(0.1) + draws[:, 3:] * np.float32(0.6)
            found.append(rows)
        return found

    def network_input(self) -> Floats:
        raw = self.raw()
        images = np.zeros((*raw.shape[:2], self.rows * STRIDE, self.columns * STRIDE), np.float32)
        images[:, :, ::STRIDE, ::STRIDE] = raw
        return images


def _draws(seed: int, count: int) -> Floats:
    """Draws from 0…1, the same for ever: a 64-bit linear congruential generator written out."""
    state = (seed * 0x9E3779B97F4A7C15 + 12345) & (2**64 - 1)
    values = np.empty(count, np.float32)
    for number in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        values[number] = (state >> 40) / (1 << 24)
    return values


CASES = (
    Case("mse"),
    Case("mse_crowded", keys={"scale_x_y": 1.2}, crowded=True, objects=30, seed=2),
    *(
        Case(kind, keys={"iou_loss": kind, "iou_normalizer": 0.07, "scale_x_y": 1.1}, seed=seed)
        for seed, kind in enumerate(("iou", "giou", "diou", "ciou"), start=3)
    ),
    Case(
        "yolov4",
        keys={"iou_loss": "ciou", "iou_thresh": 0.213, "iou_normalizer": 0.07, "max_delta": 0.02, "scale_x_y": 1.05,
              "ignore_thresh": 0.3},
        crowded=True,
        objects=25,
        seed=7,
    ),
    Case("thresh_kind", keys={"iou_thresh": 0.2, "iou_thresh_kind": "ciou", "iou_loss": "diou"}, seed=8),
    Case(
        "new_coords",
        keys={"iou_loss": "ciou", "objectness_smooth": 1, "ignore_thresh": 0.2, "scale_x_y": 2, "iou_thresh": 0.2,
              "cls_normalizer": 0.5, "obj_normalizer": 0.4, "max_delta": 2},
        new_coords=True,
        seed=9,
    ),
    Case("new_coords_mse", keys={"scale_x_y": 2}, new_coords=True, seed=10),
    Case("focal", keys={"focal_loss": 1, "iou_loss": "giou"}, seed=11, crowded=True),
    Case(
        "smoothing",
        keys={"label_smooth_eps": 0.1, "counters_per_class": "100,10,1", "cls_normalizer": 0.7, "max_delta": 5},
        seed=12,
        crowded=True,
        objects=25,
    ),
    Case("truth_thresh", keys={"truth_thresh": 0.4, "ignore_thresh": 0.2, "iou_loss": "ciou"}, seed=13),
    Case(
        "truth_thresh_smooth",
        keys={"truth_thresh": 0.4, "ignore_thresh": 0.2, "objectness_smooth": 1, "counters_per_class": "3,2,1"},
        seed=14,
    ),
    Case("gaussian", section="Gaussian_yolo", seed=15, keys={"uc_normalizer": 0.8, "ignore_thresh": 0.3}),
    Case(
        "gaussian_ciou",
        section="Gaussian_yolo",
        seed=16,
        crowded=True,
        objects=25,
        keys={"iou_loss": "ciou", "iou_thresh": 0.213, "yolo_point": "left_top", "scale_x_y": 1.1, "max_delta": 0.5,
              "ignore_thresh": 0.2, "counters_per_class": "3,2,1", "label_smooth_eps": 0.1},
    ),
    Case(
        "gaussian_smooth",
        section="Gaussian_yolo",
        seed=17,
        keys={"iou_loss": "giou", "yolo_point": "right_bottom", "objectness_smooth": 1, "truth_thresh": 0.45,
              "ignore_thresh": 0.2},
    ),
    Case("region", section="region", seed=18, keys={"thresh": 0.3, "object_scale": 5, "noobject_scale": 0.5}),
    Case(
        "region_rescore",
        section="region",
        seed=19,
        crowded=True,
        objects=25,
        keys={"rescore": 1, "bias_match": 1, "thresh": 0.4, "object_scale": 5, "class_scale": 2, "coord_scale": 3},
    ),
    Case("region_early", section="region", seed=20, seen=64, keys={"classfix": 2, "thresh": 0.3, "softmax": 0}),
    Case("region_focal", section="region", seed=21, keys={"classfix": -1, "focal_loss": 1}),
)  # fmt: skip


def weights_bytes(channels: int) -> bytes:
    """Returns a weights file for the identity."""
    head = np.array([0, 2, 5, 0, 0], "<i4").tobytes()
    return head + np.zeros(channels, "<f4").tobytes() + np.eye(channels, dtype="<f4").tobytes()


def run_reference(case: Case, program: Path) -> tuple[Floats, float]:
    """Runs the real program; returns its delta and its cost."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        channels = case.anchors * case.features
        (folder / "net.cfg").write_text(case.cfg())
        (folder / "net.weights").write_bytes(weights_bytes(channels))
        case.network_input().astype("<f4").tofile(folder / "input.f32")
        lines = ["\n".join(" ".join(f"{v:.9g}" for v in (*row[1:], row[0])) for row in rows) for rows in case.labels()]
        (folder / "truth.txt").write_text("\n---\n".join(lines) + "\n")
        out = folder / "out"
        out.mkdir()
        command = [program, "net.cfg", "net.weights", "input.f32", "truth.txt", "out"]
        command += ["--batch", str(case.images), "--seen", str(case.seen - case.images)]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
        cost = next(line for line in done.stdout.decode(errors="replace").splitlines() if line.startswith("COST 1"))
        delta = np.fromfile(out / "1.delta.f32", "<f4").reshape(case.images, channels, case.rows, case.columns)
    return delta, float(cost.split()[-1])


if __name__ == "__main__":
    found: dict[str, npt.NDArray[np.float32]] = {}
    for each in CASES:
        deltas, figure = run_reference(each, Path(sys.argv[1]))
        found[each.name] = deltas
        found[f"{each.name}.cost"] = np.array(figure, np.float32)
    np.savez_compressed(GOLDEN, **found)  # type: ignore[arg-type]
