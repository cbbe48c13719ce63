"""Does a slim pair compute what it should? Statically from the files, and numerically in an independent program."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.cfg import Cfg
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.runners.base import Maps, load_with_any
from darkprune.runs.digests import digest_of_file
from darkprune.surgery.apply import Cut, slim_cfg
from darkprune.surgery.removed_units import ReducedWeights, write_silenced
from darkprune.surgery.replaced_channels import without_similar
from darkprune.surgery.stand_ins import write_held, write_masked

TOLERANCE = 1e-3  #: relative to a layer's largest value; float32 in a deep network keeps to about 1e-5
_Write = Callable[[NetworkWeights, Cut, BinaryIO], None]
WIDTH_KEYS = frozenset({"filters", "groups", "output", "out_channels"})


@dataclass(frozen=True)
class Difference:
    """How far two maps are apart.

    Attributes:
        layer: layer index.
        absolute: largest absolute difference.
        relative: the same divided by the largest absolute value of the reference.
        border, interior: relative, outside and inside the central third of rows and columns.
    """

    layer: int
    absolute: float
    relative: float
    border: float
    interior: float


@dataclass(frozen=True)
class NumericCheck:
    """Outcome of running the pairs.

    Attributes:
        runner: the program.
        images: number of images.
        cut: per layer, slim against the masked original: must be float noise.
        compensation: per layer, slim against the original with removed channels held at their constants.
        outputs: layers that feed the network's heads, or give its output.
    """

    runner: str
    images: int
    cut: tuple[Difference, ...]
    compensation: tuple[Difference, ...]
    outputs: tuple[int, ...]

    @property
    def worst_cut(self) -> Difference | None:
        """The layer furthest from the masked original."""
        return max(self.cut, key=lambda difference: difference.relative, default=None)

    @property
    def ok(self) -> bool:
        """Whether the slim network computes what the cut means."""
        worst = self.worst_cut
        return worst is not None and worst.relative <= TOLERANCE


def static_problems(
    original: NetworkWeights, slim: NetworkWeights, cut: Cut | None, report: Path | None = None
) -> list[str]:
    """Compares two pairs as files.

    Args:
        original: the pair before.
        slim: the pair after.
        cut: what the plan says; without it only widths may differ.
        report: the report beside the slim pair, for its hashes.

    Returns:
        What is wrong; empty if nothing.
    """
    problems = _shape_problems(original.graph, slim.graph)
    if cut is not None:
        expected = slim_cfg(cut)
        problems += _text_problems(expected, slim.graph.cfg)
    else:
        problems += _unexplained(original.graph.cfg, slim.graph.cfg)
    problems += slim.non_finite()
    if (original.file.header.seen, original.file.header.minor) != (slim.file.header.seen, slim.file.header.minor):
        problems.append("the header of the slim weights differs from the original's")
    if report is not None:
        problems += _hash_problems(report, slim)
    return problems


def check_numbers(
    original: NetworkWeights,
    slim: NetworkWeights,
    cut: Cut,
    images: Iterable[NDArray[np.float32]],
    runner: str | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> NumericCheck:
    """Runs the slim pair, the masked and the held original, and compares them layer by layer.

    Args:
        original, slim: the pairs; the original as `darkprune.surgery.replay.prepare` returns it. Units that were cut
            out are there in the stand-ins, with weights 0 in the convolution that ends them.
        cut: what the plan says.
        images: (c, h, w), RGB, 0 to 1, of the network's size.
        runner: name of a runner; None takes the first that loads the pair.
        progress: called with what is being done.

    Raises:
        RunnerError: no program at hand loads the pair.
    """
    images = list(images)
    progress("the slim network")
    name, loaded = load_with_any(slim.graph, slim.file.path, runner)
    found = [loaded.outputs(image) for image in images]
    results: list[list[Difference]] = []
    stages: tuple[tuple[str, _Write, NetworkWeights, Cut], ...] = (
        ("the masked original", write_masked, original, cut),
        # channels that others replace are as they were: what is missing of them is part of the difference
        ("the original with constants", write_held, *without_similar(original, cut)),
    )
    for what, write, base, held in stages:
        progress(what)
        with tempfile.TemporaryDirectory(prefix="darkprune-") as folder:
            path = Path(folder) / "stand-in.weights"
            with path.open("wb") as file:
                write(base, held, file)
            results.append(_compare(cut, _run(original, path, name, images), found))
    return NumericCheck(name, len(images), tuple(results[0]), tuple(results[1]), output_layers(original.graph))


def output_layers(graph: Graph) -> tuple[int, ...]:
    """Returns the layers whose values are the network's answer: what feeds its heads, else its outputs."""
    feeding = [head.sources[0] for head in graph.heads if head.sources[0] >= 0]
    return tuple(dict.fromkeys(feeding)) or graph.outputs


def _run(original: NetworkWeights, path: Path, runner: str, images: Sequence[NDArray[np.float32]]) -> list[Maps]:
    """Runs a stand-in; where units were cut out it is run at full depth, with those units silent."""
    if not isinstance(original, ReducedWeights):
        _, loaded = load_with_any(original.graph, path, runner)
        return [loaded.outputs(image) for image in images]
    deep = path.with_name("deep.weights")
    with NetworkWeights(original.graph, path) as stand_in, deep.open("wb") as file:
        write_silenced(original, stand_in, file)
    _, loaded = load_with_any(original.original.graph, deep, runner)
    shown = [loaded.outputs(image) for image in images]
    return [{new: maps[old] for new, old in enumerate(original.kept) if old in maps} for maps in shown]


def _compare(cut: Cut, reference: Sequence[object], found: Sequence[object]) -> list[Difference]:
    """Compares the channels that the two have in common and whose content was not replaced."""
    worst: dict[int, list[float]] = {}
    for expected, got in zip(reference, found, strict=True):
        for index in sorted(set(expected) & set(got)):  # type: ignore[call-overload]
            classes = cut.channels.of_layer[index]
            kept = cut.kept(classes)
            carrier = np.where(classes < 0, False, cut.carriers[classes])[kept]
            a, b = expected[index][kept][~carrier], got[index][~carrier]  # type: ignore[index]
            if a.shape != b.shape or not a.size:
                continue
            scale = max(float(np.abs(a).max()), 1e-12)
            error = np.abs(np.float64(a) - b).max(axis=0)
            inside = np.zeros(error.shape, bool)
            height, width = error.shape
            inside[height // 3 : height - height // 3, width // 3 : width - width // 3] = True
            border = error[~inside].max() if (~inside).any() else 0.0
            now = [error.max(), error.max() / scale, border / scale, error[inside].max() / scale]
            before = worst.get(index, [0.0] * 4)
            worst[index] = [
                float(max(x, y)) if np.isfinite(x) else float("inf") for x, y in zip(now, before, strict=True)
            ]
    return [Difference(index, *values) for index, values in sorted(worst.items())]


def _shape_problems(original: Graph, slim: Graph) -> list[str]:
    if [layer.name for layer in original] != [layer.name for layer in slim]:
        return [f"the layers differ: {len(original)} before, {len(slim)} after, or of other kinds"]
    problems = []
    for before, after in zip(original, slim, strict=True):
        same_map = (before.output.h, before.output.w) == (after.output.h, after.output.w)
        is_output = before.index in output_layers(original)
        if not same_map or (is_output and before.output != after.output):
            problems.append(f"layer {before.index} ({before.name}) gives {after.output} instead of {before.output}")
    return problems


def _text_problems(expected: Cfg, found: Cfg) -> list[str]:
    if str(expected) == str(found):
        return []
    pairs = enumerate(zip(expected.lines, found.lines, strict=False), start=1)
    first = next((number for number, (a, b) in pairs if a != b), None)
    where = f"line {first}" if first else f"its length: {len(found.lines)} lines instead of {len(expected.lines)}"
    return [f"{found.source}: differs at {where} from what the plan makes of the original"]


def _unexplained(original: Cfg, slim: Cfg) -> list[str]:
    problems = []
    for before, after in zip(original.sections, slim.sections, strict=False):
        if before.name != after.name:
            return [f"line {after.line}: [{after.name}] instead of [{before.name}]"]
        values = [{o.key: o.value for o in reversed(section.options)} for section in (before, after)]
        for key in sorted(values[0].keys() | values[1].keys()):
            if values[0].get(key) != values[1].get(key) and key not in WIDTH_KEYS:
                problems.append(
                    f"line {after.line}: [{after.name}] {key} is {values[1].get(key)}, was {values[0].get(key)}"
                )
    return problems


def _hash_problems(report: Path, slim: NetworkWeights) -> list[str]:
    try:
        data = json.loads(report.read_text(encoding="utf-8"))
        wanted = {kind: str(data["outputs"][kind]["sha256"]) for kind in ("cfg", "weights")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{report}: cannot be read as a report ({type(error).__name__})"]
    paths = {"cfg": Path(slim.graph.cfg.source), "weights": slim.file.path}
    return [
        f"{paths[kind]}: is not the file that the report beside it describes (changed since?)"
        for kind in wanted
        if digest_of_file(paths[kind]) != wanted[kind]
    ]
