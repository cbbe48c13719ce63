"""Which feature maps of teacher and student are compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from darkprune.errors import TrainingError, UsageError
from darkprune.graph.channels import map_channels
from darkprune.graph.graph import Graph, Layer
from darkprune.graph.groups import PruneGroup
from darkprune.layers.simple import Final
from darkprune.surgery.apply import Cut
from darkprune.surgery.plan import Plan
from darkprune.surgery.replay import base_graph, layers_before
from darkprune.training.settings import DistillPreset

#: Chu et al. 2023, §6: β of the first three maps, and of the later ones
BETAS = (1000.0, 1000.0, 1000.0, 10000.0)
SUMMED = 0.01  #: part of β beside losses that are sums (`objectness`)
#: number of layers of the paper's networks (YOLOv4, Darknet53-YOLOv3, MobileNet-YOLOv3) -> how many maps it compares
_PAPER_MAPS = {162: 5, 107: 4, 59: 5}
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
        teacher: layer index in the teacher.
        student: layer index in the student.
        weight: of the pair.
        channels: channels of the two maps that belong together, as (teacher's, student's); empty where the comparison
            is not by channel.
    """

    teacher: int
    student: int
    weight: float
    channels: tuple[tuple[int, int], ...] = ()

    def after(self, cut: Cut) -> Tap:
        """Returns the pair after a cut of the student."""
        kept = cut.kept(cut.channels.of_layer[self.student]).tolist()
        new = {old: number for number, old in enumerate(kept)}
        return replace(self, channels=tuple((theirs, new[ours]) for theirs, ours in self.channels if ours in new))


def choose_taps(graph: Graph, groups: Sequence[PruneGroup], preset: DistillPreset) -> dict[int, float]:
    """Chooses the teacher's layers to compare, with their weights.

    `features` takes the maps that the last convolutions before the heads read. `chu2022` on YOLOv4 takes the layers of
    the authors' program. The others take on the paper's three networks the last layer before each change of scale (208
    or 104 to 13 pixels wide at 416). For other networks they take the last layer of each scale in each group; the
    weight grows after the third group, or is 1e6 in the backbone's groups (`chu2022`). `objectness` has a hundredth of
    the paper's weights.

    Raises:
        TrainingError: there is no map to compare.
    """
    if preset == "features":
        found = dict.fromkeys((_before_head(graph, head) for head in graph.heads), 1.0)
    elif preset == "chu2022" and len(graph) == _YOLOV4_LAYERS:
        found = dict(CHU2022)
    elif preset != "chu2022" and len(graph) in _PAPER_MAPS:
        chosen = _ends_of_scales(graph)[-_PAPER_MAPS[len(graph)] :]
        found = {layer: _beta(number) for number, layer in enumerate(chosen)}
    else:
        found = {}
        for number, group in enumerate(groups):
            weight = _beta(number) if preset != "chu2022" else 1e6 if number < len(groups) - 2 else 1e4
            found.update(dict.fromkeys(_last_of_scales(graph, group), weight))
    if not found:
        raise TrainingError(f"{graph.cfg.source}: has no feature maps to compare; give --taps LAYER:WEIGHT,…")
    scale = SUMMED if preset == "objectness" else 1.0
    return {layer: scale * weight for layer, weight in found.items()}


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


def match_taps(chosen: Mapping[int, float], teacher: Graph, student: Graph, plan: Plan | None) -> tuple[Tap, ...]:
    """Finds the student's layer for each of the teacher's; the plan is needed where the student has fewer layers.

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


def with_channels(taps: Sequence[Tap], teacher: Graph, student: Graph, plan: Plan | None) -> tuple[Tap, ...]:
    """Finds which channels of each pair of maps belong together; carriers, which are constant, belong to none.

    Args:
        plan: what it was cut by; needed where a map of the student has fewer channels.

    Raises:
        TrainingError: there is no plan, or it is not the one that the student was cut by.
        PlanError: the plan does not belong to the teacher.
    """
    if plan is None:
        if any(teacher[tap.teacher].output.c != student[tap.student].output.c for tap in taps):
            raise TrainingError(
                "which of the teacher's channels the student has is in the plan that it was cut by: --plan plan.json"
            )
        return tuple(replace(tap, channels=_pairs(range(student[tap.student].output.c))) for tap in taps)
    channels = map_channels(base_graph(teacher, plan))
    keep, carriers = plan.classes(channels)
    found = []
    for tap in taps:
        classes = channels.of_layer[tap.student]  # numbered as in the student
        kept = channels.kept_channels(keep, classes)
        if len(kept) != student[tap.student].output.c:
            raise TrainingError(
                f"student's layer {tap.student} has {student[tap.student].output.c} channels, but by the plan "
                f"{len(kept)}: the student was not cut by this plan"
            )
        constant = carriers[classes] & (classes >= 0)
        found.append(replace(tap, channels=tuple(pair for pair in _pairs(kept.tolist()) if not constant[pair[0]])))
    return tuple(found)


def _pairs(kept: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((old, number) for number, old in enumerate(kept))


def _student_numbers(teacher: Graph, student: Graph, plan: Plan | None) -> dict[int, int]:
    """Maps the teacher's layer numbers to the student's."""
    units = plan.units if plan is not None else ()
    kept = layers_before(teacher, plan) if plan is not None else tuple(range(len(teacher)))
    if len(kept) != len(student):
        hint = "" if plan is not None else "; give the plan that it was cut by (--plan plan.json)"
        raise TrainingError(
            f"teacher and student do not match: {len(kept)} layers of {teacher.cfg.source} would remain, "
            f"{student.cfg.source} has {len(student)}{hint}"
        )
    numbers = {old: new for new, old in enumerate(kept) if old is not None}
    for unit in sorted(units, key=lambda unit: unit.first):
        numbers[unit.last] = numbers[unit.source]  # without the unit, its readers read its source
    return numbers


def _before_head(graph: Graph, head: Layer) -> int:
    """Returns the layer whose map the last convolution before a head reads."""
    last = graph[head.sources[0]]
    return last.sources[0] if last.name == "convolutional" else last.index


def _beta(number: int) -> float:
    return BETAS[min(number, len(BETAS) - 1)]


def _scale(layer: Layer) -> tuple[int, int]:
    return layer.output.h, layer.output.w


def _features(graph: Graph, layers: Sequence[Layer]) -> list[Layer]:
    """Returns layers that make maps of features: not heads, what feeds them, routes, and branches of one pixel."""
    found = []
    for layer in layers:
        if isinstance(layer.kind, Final) or not layer.output.is_map or layer.name == "route":
            continue
        if _scale(layer) in ((1, 1), (graph.net.input.h, graph.net.input.w)):
            continue
        if not any(isinstance(graph[reader].kind, Final) for reader in graph.consumers[layer.index]):
            found.append(layer)
    return found


def _ends_of_scales(graph: Graph) -> list[int]:
    """Returns for each scale, from fine to coarse, the last layer before the scale first changes."""
    ends: dict[tuple[int, int], int] = {}
    for scale, successive in groupby(_features(graph, graph.layers), _scale):
        ends.setdefault(scale, list(successive)[-1].index)
    return [ends[scale] for scale in sorted(ends, reverse=True)]


def _last_of_scales(graph: Graph, group: PruneGroup) -> list[int]:
    """Returns the last layer of each scale in a group; not a lone entrance to what the next group does."""
    layers = _features(graph, graph.layers[group.first : group.last + 1])
    last, count = {_scale(layer): layer.index for layer in layers}, Counter(map(_scale, layers))
    return sorted(index for scale, index in last.items() if count[scale] > 1 or index < group.last or len(last) == 1)
