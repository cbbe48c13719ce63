"""How much each group loses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from darkprune.errors import PlanError, UsageError
from darkprune.json_types import JsonObject

Allocation = Literal["uniform", "proportional", "global", "sensitivity", "explicit"]
ALLOCATIONS: tuple[str, ...] = get_args(Allocation)

#: [GCP] Table 1: percent per group, as printed there
TABLE1: dict[str, tuple[float, ...]] = {
    "table1-model1": (0.10, 0.20, 0.96, 0.87, 0.45),
    "table1-model2": (0.10, 0.25, 0.96, 0.87, 0.50),
    "table1-model3": (0.10, 0.25, 0.97, 0.85, 0.55),
    "table1-model4": (0.15, 0.25, 0.96, 0.85, 0.70),
    "table1-model5": (0.15, 0.27, 0.96, 0.85, 0.90),
}
#: the authors' program's fractions for Darknet53-YOLOv3
YOLOV3: tuple[float, ...] = (0.32, 0.55, 0.95, 0.85, 0.50)
#: presets: name -> (division into groups, ratio of each)
RATIO_PRESETS: dict[str, tuple[str, tuple[float, ...]]] = {
    **{name: ("yolov4", ratios) for name, ratios in TABLE1.items()},
    "yolov3": ("yolov3", YOLOV3),
    "mobilenet-yolov3": ("mobilenet-yolov3", (0.65,) * 5),  # published as a total
}
#: presets that give the width of every layer instead
WIDTH_PRESETS = {"chu2022": "chu2022.json"}
PRESETS = (*RATIO_PRESETS, *WIDTH_PRESETS)


def ratios_of(allocation: str, ratio: float, given: Sequence[float], channels: Sequence[int]) -> tuple[float, ...]:
    """Computes the ratio of each group.

    Args:
        allocation: `uniform` (the ratio for each), `global` (the ratio over all, one threshold), `proportional`
            (p_i·ratio with p_i the group's share of the prunable channels), `explicit` or `sensitivity` (as given).
        given: ratios for `explicit`, and those that the curves gave for `sensitivity`.
        channels: prunable channels of each group.

    Raises:
        UsageError: a ratio outside [0, 1), or not one for each group.
    """
    if allocation in ("explicit", "sensitivity"):
        if len(given) != len(channels):
            raise UsageError(f"{len(given)} ratios for {len(channels)} groups; give one for each (darkprune groups)")
        ratios = tuple(given)
    elif allocation == "proportional":
        total = sum(channels)
        ratios = tuple(count / total * ratio if total else 0.0 for count in channels)
    else:
        ratios = (ratio,) * len(channels)
    for value in (ratio, *ratios):
        if not 0 <= value < 1:
            raise UsageError(f"ratio {value:g} is outside [0, 1): it is the fraction of channels to remove")
    return ratios


def preset_widths(name: str, layers: int) -> dict[int, int]:
    """Returns layer -> filters of a width preset.

    Raises:
        PlanError: the preset belongs to a network of another depth.
    """
    data: JsonObject = json.loads(Path(__file__).with_name(WIDTH_PRESETS[name]).read_text(encoding="utf-8"))
    if layers != data["layers"]:
        raise PlanError(f"preset {name} is for {data['network']} ({data['layers']} layers), this one has {layers}")
    return {int(layer): int(width) for layer, width in data["filters"].items()}
