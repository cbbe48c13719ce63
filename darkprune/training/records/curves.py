"""Curves of a run as a picture, where matplotlib is installed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.darknet.output import atomic_file
from darkprune.training.records.log import Curve, read_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 2000
PERCENT = ("map50", "map", "accuracy", "top1", "top5")
WIDE = ("loss", "attention", "hard")  #: drawn on a logarithmic axis where they span more than a factor of 20
SPARSE = 60  #: so few values are marked one by one
SMOOTHED_OVER = 100  #: a curve is drawn in so many averaged pieces, with its raw values in the background


def draw_curves(log: Path, target: Path, columns: Sequence[str]) -> None:
    """Draws those columns of a log that have values, where matplotlib is installed.

    Raises:
        OutputError: the picture cannot be written.
    """
    figure = curves_figure(read_curves(log), columns)
    if figure is not None:
        save_figure(figure, target)


def curves_figure(curves: Mapping[str, Curve], columns: Sequence[str]) -> Figure | None:
    """Draws a panel per column, two in a row: the values pale, their averages on top.

    Args:
        curves: of a log, by column.
        columns: names; those without values are left out, fractions such as mAP are drawn in percent. A single value
            beside curves is left out too.

    Returns:
        The figure; None where matplotlib is not installed, or nothing is to be drawn.
    """
    most = max((len(curve.steps) for curve in curves.values()), default=0)
    least = 2 if most > 1 else 1
    drawn = [(name, *curves[name]) for name in columns if name in curves and len(curves[name].steps) >= least]
    across = min(2, len(drawn))
    down = -(-len(drawn) // max(1, across))
    figure = new_figure(9 if across > 1 else 5, 0.3 + 1.75 * down)
    if figure is None or not drawn:
        return None
    panels = figure.subplots(down, across, squeeze=False, sharex=True)
    for axis, (name, steps, values) in zip(panels.flat, drawn, strict=False):
        _panel(axis, name, steps, values)
    for axis in panels.flat[len(drawn) :]:
        axis.set_visible(False)
    for place in range(across):
        last = (len(drawn) - 1 - place) // across
        panels[last, place].set_xlabel("step")
        panels[last, place].tick_params(labelbottom=True)
    return figure


def _panel(axis: Axes, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
    percent = name in PERCENT
    shown = [100 * value for value in values] if percent else list(values)
    stride = max(1, len(steps) // MOST_POINTS)
    many = len(steps) > 2 * SMOOTHED_OVER
    axis.plot(
        steps[::stride], shown[::stride], "-" if len(steps) > SPARSE else ".-",
        linewidth=0.5 if many else 1.2, color="tab:blue" if not many else "#a9c4de",
    )  # fmt: skip
    if many:
        axis.plot(*_smoothed(steps, shown), linewidth=1.4, color="#12436d")
        low, high = _limits(shown)
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    if percent and len(shown) <= SPARSE:
        best = max(range(len(shown)), key=shown.__getitem__)
        axis.annotate(
            f"{shown[best]:.2f}", (steps[best], shown[best]), (0, -11), textcoords="offset points", fontsize=8
        )
    axis.set_title(f"{name}, %" if percent else name, fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.ticklabel_format(axis="y", useOffset=False)
    if min(shown) > 0 and max(shown) > 20 * min(shown) and name in WIDE:
        _scale_by_powers(axis)


def _scale_by_powers(axis: Axes) -> None:
    """Makes the upright axis logarithmic, with plain numbers at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.autoscale(axis="y")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0) if high < 300 * low else (1.0,), numticks=8))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns a range without the few largest and smallest values, which would flatten the rest."""
    ordered = sorted(values)
    cut = len(ordered) // 200
    low, high = ordered[cut], ordered[-1 - cut]
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def save_figure(figure: Figure, target: Path) -> None:
    """Writes a figure as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(target, overwrite=True) as file:
        file.write(render_figure(figure, "png", 100))


def render_figure(figure: Figure, kind: str, dpi: int = 130) -> bytes:
    """Returns a figure as a file; the same figure always gives the same bytes.

    Names of classes, files and runs are shown as they are: a dollar sign begins no formula, and what is no text (bytes
    of a file name that are not UTF-8) becomes a question mark.

    Args:
        kind: `svg` or `png`.
        dpi: pixels per inch.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_parse_math(False)
            text.set_text(text.get_text().encode("utf-8", "replace").decode())
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "darkprune", "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font may not have all letters of a name
        figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else {})
    return buffer.getvalue()


def can_draw() -> bool:
    """Returns whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Figure | None:
    """Returns a figure of a size in inches; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure(figsize=(width, height), layout="constrained")


def _smoothed(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    size = len(steps) // SMOOTHED_OVER
    pieces = range(0, len(steps) - size + 1, size)
    return [sum(steps[i : i + size]) / size for i in pieces], [sum(values[i : i + size]) / size for i in pieces]
