"""Reads plan files: what a stranger or an editor left of one is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from darkprune.errors import PlanError
from darkprune.graph.channels import MAX_CHANNELS
from darkprune.json_types import JsonMapping
from darkprune.layers.base import Floats
from darkprune.runs.json_file import JsonValue, parse_json, read_json
from darkprune.surgery.factors.projection import Factors
from darkprune.surgery.plan import COMPENSATIONS, FORMAT, GroupResult, Plan
from darkprune.surgery.replaced_channels import Tap
from darkprune.surgery.units import Unit

MAX_BYTES = 256 << 20  #: the projections of a large factorised network have some ten MB


def read_plan(path: Path) -> Plan:
    """Reads a plan file.

    Raises:
        PlanError: it cannot be read, or is not a plan.
    """
    what = "a plan (darkprune prune --plan-only writes one)"
    return _from_value(read_json(path, what, MAX_BYTES, PlanError), str(path))


def parse_plan(raw: bytes | str) -> Plan:
    """Reads what `Plan.dumps` gives.

    Raises:
        PlanError: it is not a plan.
    """
    return _from_value(parse_json(raw, "plan", PlanError), "plan")


def _from_value(data: JsonValue, source: str) -> Plan:
    if not isinstance(data.value, dict):
        raise PlanError(f"{source}: is not a plan of darkprune")
    try:
        return _from_json(data.value)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PlanError(f"{source}: is not a plan of darkprune ({type(error).__name__}: {str(error)[:80]})") from None


def _from_json(data: JsonMapping) -> Plan:
    if data["format"] != FORMAT:
        raise ValueError(f"format is {str(data['format'])[:40]!r}, not {FORMAT!r}")
    layers, measured = {}, {}
    total = 0
    for name, entry in data["layers"].items():
        index, width = int(name), int(entry["channels"])
        total += width
        if width < 1 or total > MAX_CHANNELS:  # before a range of a few bytes becomes as many numbers
            raise ValueError(f"layer {index}: channels={width}")
        keep, carriers = _from_ranges(entry["keep"], width), _from_ranges(entry.get("carriers", ""), width)
        layers[index] = (width, keep, carriers)
        if "constants" in entry:
            measured[index] = _constants(index, entry["constants"])
            if len(measured[index]) != width:
                raise ValueError(f"layer {index}: constants are not {width} numbers")
    for name, values in data.get("constants", {}).items():
        measured.setdefault(int(name), _constants(int(name), values))
    groups = tuple(GroupResult.from_json(entry) for entry in data["groups"])
    settings = dict(data["settings"])
    if settings.get("compensate") not in COMPENSATIONS or settings.get("constant") not in ("mean", "beta"):
        raise ValueError("settings lack compensate or constant")
    return Plan(
        str(data["cfg"]["sha256"]),
        str(data["weights"]["sha256"]),
        (str(data["cfg"]["name"]), str(data["weights"]["name"])),
        settings,
        groups,
        layers,
        measured,
        tuple(Unit.from_json(entry) for entry in data.get("units", [])),
        {int(name): Tap.from_json(entry) for name, entry in data.get("similar", {}).items()},
        {int(name): Factors.from_json(entry) for name, entry in data.get("factors", {}).items()},
    )


def _constants(layer: int, values: object) -> Floats:
    constants = np.array(values, np.float64)
    if constants.ndim != 1 or not np.isfinite(constants).all():
        raise ValueError(f"layer {layer}: constants are not numbers")
    return constants


def _from_ranges(text: str, width: int) -> tuple[int, ...]:
    positions: list[int] = []
    for part in str(text).replace(" ", "").split(",") if text else []:
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        if match is None:
            raise ValueError(f"'{part[:20]}' is no channel or range")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < width:
            raise ValueError(f"{part} does not lie within 0-{width - 1}")
        positions.extend(range(first, last + 1))
    if len(set(positions)) != len(positions) or positions != sorted(positions):
        raise ValueError(f"'{str(text)[:40]}' is not in rising order")
    return tuple(positions)
