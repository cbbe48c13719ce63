"""Draws the picture of the README: the network that comes with darkprune before and after, on drawn scenes.

    python tools/draw_readme.py docs/before-after.jpg

Takes some three minutes on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import darkprune as dp
from darkprune.data.scenes import write_scenes

SCENES = (0, 4, 33)  #: of the test scenes
WIDE, HIGH, DPI = 10.0, 3.9, 110


def main(target: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_scenes(folder / "scenes", 200, 150)
        before = dp.load("builtin:scenes", "builtin:scenes")
        how = dp.PruneSettings(
            target_macs="0.6", criterion="surgeon", recover="lsq", images=str(folder / "scenes" / "train")
        )
        dp.prune(before, how, output=folder / "slim").close()
        after = dp.load(folder / "slim" / "scenes.cfg", folder / "slim" / "scenes.weights")
        titles = [_title(name, pair, data) for name, pair in (("before", before), ("after, not trained", after))]
        names = dp.DetectSettings(names=folder / "scenes" / "scenes.names")
        drawn = [
            sorted(dp.detect(pair, folder / "scenes" / "valid", names, output=folder / f"boxes{number}").drawn)
            for number, pair in enumerate((before, after))
        ]
        figure = Figure(figsize=(WIDE, HIGH), layout="constrained")
        widths, pictures = figure.subfigures(2, 1, height_ratios=(1, 1.2))
        _draw_widths(widths, before, after)
        halves = pictures.subfigures(1, 2)
        for half, title, files in zip(halves, titles, drawn, strict=True):
            half.suptitle(title, fontsize=10)
            for axis, number in zip(half.subplots(1, len(SCENES)), SCENES, strict=True):
                axis.imshow(cv2.imread(str(files[number]))[:, :, ::-1])
                axis.axis("off")
        canvas = FigureCanvasAgg(figure)
        figure.set_dpi(DPI)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[:, :, 2::-1]
        cv2.imwrite(target, np.ascontiguousarray(pixels), [cv2.IMWRITE_JPEG_QUALITY, 88])


def _title(name: str, pair: dp.Pair, data: Path) -> str:
    found = dp.evaluate(pair, data)
    return f"{name}: {pair.graph.macs / 1e6:.0f} M multiply-adds, mAP@0.5 {100 * found.map50:.1f} %"


def _draw_widths(part: Figure, before: dp.Pair, after: dp.Pair) -> None:
    layers = [layer for layer in before.graph if layer.name == "convolutional"]
    axis = part.subplots()
    place = np.arange(len(layers))
    axis.bar(place, [layer.output.c for layer in layers], 0.85, color="#b9c4ce", label="before")
    axis.bar(place, [after.graph[layer.index].output.c for layer in layers], 0.85, color="#1b4f7a", label="after")
    axis.set_xticks(place[::2], [str(layer.index) for layer in layers[::2]], fontsize=7)
    axis.tick_params(axis="y", labelsize=7)
    axis.set(ylabel="channels", xlabel="layer")
    axis.margins(x=0.005)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(sys.argv[1])
