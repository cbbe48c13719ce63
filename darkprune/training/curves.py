"""Curves of a run as a picture, and as TensorBoard events, where those programs are installed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from darkprune.darknet.output import atomic_file
from darkprune.training.log import column, read_log

MOST_POINTS = 2000
SMOOTHED_OVER = 100  #: a curve is drawn in so many averaged pieces, with its raw values behind


def draw_curves(log: Path, target: Path, columns: Sequence[str]) -> bool:
    """Draws columns of a log one above the other.

    Args:
        log: the table.
        target: PNG to write.
        columns: names; those without values are left out.

    Returns:
        Whether matplotlib is installed.

    Raises:
        OutputError: the picture cannot be written.
    """
    figure_class = _figure_class()
    if figure_class is None:
        return False
    rows = read_log(log)
    curves = [(name, *column(rows, name)) for name in columns]
    curves = [(name, steps, values) for name, steps, values in curves if steps]
    if not curves:
        return True
    figure = figure_class(figsize=(9, 1.9 * len(curves)), layout="constrained")
    for axis, (name, steps, values) in zip(figure.subplots(len(curves), 1, squeeze=False)[:, 0], curves, strict=True):
        stride = max(1, len(steps) // MOST_POINTS)
        many = len(steps) > 2 * SMOOTHED_OVER
        axis.plot(steps[::stride], values[::stride], linewidth=0.5 if many else 1.2, alpha=0.4 if many else 1)
        if many:
            axis.plot(*_smoothed(steps, values), linewidth=1.5, color="tab:blue")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
        if name == "loss" and min(values) > 0:
            axis.set_yscale("log")
    axis.set_xlabel("step")
    save_figure(figure, target)
    return True


def save_figure(figure: Any, target: Path) -> None:
    """Writes a figure as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    with atomic_file(target, overwrite=True) as file:
        file.write(buffer.getvalue())


def new_figure(**options: Any) -> Any:
    """Returns a figure, or None without matplotlib."""
    figure_class = _figure_class()
    return None if figure_class is None else figure_class(**options)


class Board:
    """Writes TensorBoard events; does nothing where it is not installed."""

    def __init__(self, folder: Path | None, step: int) -> None:
        """Opens the events.

        Args:
            folder: where; None for none.
            step: events of later steps are void: the run goes on from here.
        """
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds values of a step."""
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    return Figure


def _smoothed(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    size = len(steps) // SMOOTHED_OVER
    pieces = range(0, len(steps) - size + 1, size)
    return [sum(steps[i : i + size]) / size for i in pieces], [sum(values[i : i + size]) / size for i in pieces]
