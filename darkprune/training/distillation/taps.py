"""Which feature maps of teacher and student are compared (METHODS §3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from darkprune.errors import TrainingError, UsageError
from darkprune.graph.graph import Graph, Layer
from darkprune.graph.groups import PruneGroup, group_of
from darkprune.layers.simple import Final
from darkprune.surgery.plan import Plan
from darkprune.surgery.removed_units import kept_layers

#: [GCP] §6: β of the first three maps, and of the later ones
BETAS = (1000.0, 1000.0, 1000.0, 10000.0)
SUMMED = 0.01  #: part of β beside losses that are sums (`objectness`)
#: number of layers of the network -> widths of the paper's maps as shares of the input's
_PAPER_MAPS = {162: 5, 107: 4}
#: the authors' program, YOLOv4: layer -> weight
CHU2022 = {
    **dict.fromkeys((10, 23, 54, 85), 1e6),
    **dict.fromkeys((117, 159), 1e3),
    **dict.fromkeys((127, 137, 148), 1e4),
}
_YOLOV4_LAYERS = 162


@dataclass(frozen=True)
class Tap:
    """A pair of maps.

    Attributes:
        teacher, student: layer indices in the two networks.
        weight: β of the pair.
    """

    teacher: int
    student: int
    weight: float


def choose_taps(graph: Graph, groups: Sequence[PruneGroup], preset: str) -> dict[int, float]:
    """Chooses the teacher's layers to compare, with their weights.

    `paper` takes on YOLOv4 and YOLOv3 the last layer before each change of scale (208 or 104 to 13 pixels wide at
    416), `chu2022` on YOLOv4 the layers of the authors' program. For other networks both take the last layer of each
    scale in each group; β grows behind the third group (`paper`), or is 1e6 in the backbone's groups (`chu2022`).
    `objectness` takes the paper's maps with a hundredth of its β.

    Args:
        graph: the teacher.
        groups: its division.
        preset: `paper`, `chu2022` or `objectness`.

    Raises:
        TrainingError: there is no map to compare.
    """
    if preset == "chu2022" and len(graph) == _YOLOV4_LAYERS:
        return dict(CHU2022)
    scale = SUMMED if preset == "objectness" else 1.0
    if preset != "chu2022" and len(graph) in _PAPER_MAPS:
        chosen = _ends_of_scales(graph)[-_PAPER_MAPS[len(graph)] :]
        return {layer: scale * _beta(number) for number, layer in enumerate(chosen)}
    found: dict[int, float] = {}
    for number, group in enumerate(groups):
        for layer in _last_of_scales(graph, group):
            chu2022 = 1e6 if number < len(groups) - 2 else 1e4
            found[layer] = chu2022 if preset == "chu2022" else scale * _beta(number)
    if not found:
        raise TrainingError(f"{graph.cfg.source}: has no feature maps to compare; give --taps LAYER:WEIGHT,…")
    return found


def parse_taps(text: str, layers: int) -> dict[int, float]:
    """Reads `LAYER:WEIGHT,…`.

    Raises:
        UsageError: it cannot be read, or names a layer that the teacher does not have.
    """
    found = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*:\s*(\d+\.?\d*(?:[eE][+-]?\d{1,3})?)\s*", part, re.ASCII)
        if match is None:
            raise UsageError(f"--taps {text[:80]}: '{part.strip()[:20]}' is not LAYER:WEIGHT, such as 54:1000")
        layer = int(match[1])
        if layer >= layers:
            raise UsageError(f"--taps: the teacher has no layer {layer} (0 to {layers - 1})")
        found[layer] = float(match[2])
    return found


def match_taps(chosen: dict[int, float], teacher: Graph, student: Graph, plan: Plan | None) -> tuple[Tap, ...]:
    """Finds the student's layer for each of the teacher's.

    Args:
        chosen: the teacher's layers and their weights.
        teacher, student: the networks.
        plan: what the student was cut by; needed where it has fewer layers.

    Raises:
        TrainingError: the networks' layers or maps do not fit together.
    """
    numbers = _student_numbers(teacher, student, plan)
    taps = []
    for layer, weight in sorted(chosen.items()):
        number = numbers.get(layer)
        if number is None:
            raise TrainingError(f"teacher's layer {layer} lies in a unit that the student does not have; leave it out")
        theirs, ours = teacher[layer].output, student[number].output
        if not theirs.is_map or (theirs.h, theirs.w) != (ours.h, ours.w):
            raise TrainingError(
                f"teacher's layer {layer} gives {theirs}, but the student's layer {number} {ours}: "
                "these are not the same network at one input size"
            )
        taps.append(Tap(layer, number, weight))
    return tuple(taps)


def _student_numbers(teacher: Graph, student: Graph, plan: Plan | None) -> dict[int, int]:
    """Maps the teacher's layer numbers to the student's."""
    units = plan.units if plan is not None else ()
    kept = kept_layers(teacher, units)
    if len(kept) != len(student):
        hint = "" if plan is not None else "; give the plan that it was cut by (--plan plan.json)"
        raise TrainingError(
            f"teacher and student do not match: {len(kept)} layers of {teacher.cfg.source} would remain, "
            f"{student.cfg.source} has {len(student)}{hint}"
        )
    numbers = {old: new for new, old in enumerate(kept)}
    for unit in sorted(units, key=lambda unit: unit.first):
        numbers[unit.last] = numbers[unit.source]  # without the unit, its readers read its source
    return numbers


def _beta(number: int) -> float:
    return BETAS[min(number, len(BETAS) - 1)]


def _is_feature(graph: Graph, layer: Layer) -> bool:
    """Tells maps of features from heads, what feeds them, and side branches of one pixel."""
    if isinstance(layer.kind, Final) or not layer.output.is_map or layer.output.h * layer.output.w == 1:
        return False
    if (layer.output.h, layer.output.w) == (graph.net.input.h, graph.net.input.w):
        return False
    return not any(isinstance(graph[reader].kind, Final) for reader in graph.consumers[layer.index])


def _ends_of_scales(graph: Graph) -> list[int]:
    """Returns for each scale, from fine to coarse, the last layer before the scale first changes."""
    ends: dict[tuple[int, int], int] = {}
    done: set[tuple[int, int]] = set()
    current: tuple[int, int] | None = None
    for layer in graph:
        if not _is_feature(graph, layer) or layer.name == "route":
            continue
        scale = (layer.output.h, layer.output.w)
        if scale != current:
            if current is not None:
                done.add(current)
            current = scale
        if scale not in done:
            ends[scale] = layer.index
    return [ends[scale] for scale in sorted(ends, reverse=True)]


def _last_of_scales(graph: Graph, group: PruneGroup) -> list[int]:
    """Returns the last layer of each scale in a group; not a lone entrance to what the next group does."""
    last: dict[tuple[int, int], int] = {}
    count: dict[tuple[int, int], int] = {}
    for layer in graph.layers[group.first : group.last + 1]:
        if _is_feature(graph, layer) and layer.name != "route":
            scale = (layer.output.h, layer.output.w)
            last[scale] = layer.index
            count[scale] = count.get(scale, 0) + 1
    return sorted(index for scale, index in last.items() if count[scale] > 1 or index < group.last or len(last) == 1)


def groups_of_taps(groups: Sequence[PruneGroup], taps: Sequence[Tap]) -> list[str]:
    """Returns the name of each tap's group, for tables."""
    found = [group_of(groups, tap.teacher) for tap in taps]
    return [group.name if group is not None else "" for group in found]
