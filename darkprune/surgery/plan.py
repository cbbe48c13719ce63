"""The pruning plan: what is kept, in a JSON file that a person can read, change and replay."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from darkprune import __version__
from darkprune.errors import PlanError
from darkprune.graph.channels import BoolArray, ChannelMap
from darkprune.json_types import JsonMapping, JsonObject
from darkprune.layers.base import Floats, Indices
from darkprune.surgery.factors.projection import Factors
from darkprune.surgery.replaced_channels import Tap
from darkprune.surgery.units import Unit

FORMAT = "darkprune-plan/1"
Compensation = Literal["fold", "carrier", "none"]
COMPENSATIONS: tuple[str, ...] = get_args(Compensation)
MAX_COUNT = 2**31 - 1  #: of layers and of channels, as darkprune reads them from a cfg


@dataclass(frozen=True)
class GroupResult:
    """What became of a group.

    Attributes:
        name, first, last: the group.
        ratio: fraction asked for.
        threshold: score at the last marked rank (None: nothing marked, or no batch-normalised channel).
        median: median score of its prunable channels with batch normalisation (None without any).
        channels: output channels of its convolutions that could have gone.
        marked: how many of them lay below the threshold.
        removed: how many of them went, after merging, floors and rounding; what follows without a vote is not counted.
    """

    name: str
    first: int
    last: int
    ratio: float
    threshold: float | None
    median: float | None
    channels: int
    marked: int
    removed: int

    def to_json(self) -> JsonObject:
        """Returns the fields as JSON, the range as `layers`."""
        data = asdict(self)
        return {"name": data.pop("name"), "layers": [data.pop("first"), data.pop("last")], **data}

    @classmethod
    def from_json(cls, data: JsonMapping) -> GroupResult:
        """Reads what `to_json` gives.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, or no number, or one that no network has.
        """
        first, last = map(int, data["layers"])
        threshold, median = (None if data[key] is None else finite(data[key]) for key in ("threshold", "median"))
        counts = [int(data[key]) for key in ("channels", "marked", "removed")]
        if max(map(abs, (first, last, *counts))) > MAX_COUNT:
            raise ValueError("a number of layers or channels that no network has")
        return cls(str(data["name"]), first, last, finite(data["ratio"]), threshold, median, *counts)


@dataclass(frozen=True)
class Plan:
    """A decision about one pair of files.

    Attributes:
        cfg_sha256, weights_sha256: the pair it was made for.
        names: what the two files were called.
        settings: how it was made (for the reader; replaying needs only `compensate` and `constant`).
        groups: what became of each group.
        layers: producing layer -> (channels, positions kept, positions that become carriers), in the numbers of the
            network without `units` and with `factors`, which is what channels are chosen in.
        measured: layer -> measured constants of its channels, if any, in the same numbers; also of layers that pass
            channels on, where theirs do not follow from the producers'.
        units: residual units that are cut out first, in the original's layer numbers.
        similar: layer whose output is read -> which of its removed channels others replace, numbered like `layers`.
        factors: convolutions that are written as products, in the original's layer numbers; not together with `units`.
    """

    cfg_sha256: str
    weights_sha256: str
    names: tuple[str, str]
    settings: JsonMapping
    groups: tuple[GroupResult, ...]
    layers: Mapping[int, tuple[int, tuple[int, ...], tuple[int, ...]]]
    measured: Mapping[int, Floats] = field(default_factory=dict)
    units: tuple[Unit, ...] = ()
    similar: Mapping[int, Tap] = field(default_factory=dict)
    factors: Mapping[int, Factors] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Returns the plan as JSON; kept channels as ranges (`0-12,14,16-63`)."""
        layers = {}
        for index, (channels, keep, carriers) in sorted(self.layers.items()):
            entry: JsonObject = {"channels": channels, "kept": len(keep), "keep": _to_ranges(keep)}
            if carriers:
                entry["carriers"] = _to_ranges(carriers)
            if index in self.measured:
                entry["constants"] = _rounded(self.measured[index])
            layers[str(index)] = entry
        passed_on = {str(i): _rounded(values) for i, values in sorted(self.measured.items()) if i not in self.layers}
        return {
            "format": FORMAT,
            "darkprune": __version__,
            "cfg": {"name": self.names[0], "sha256": self.cfg_sha256},
            "weights": {"name": self.names[1], "sha256": self.weights_sha256},
            "settings": dict(self.settings),
            "groups": [group.to_json() for group in self.groups],
            **({"units": [unit.to_json() for unit in self.units]} if self.units else {}),
            "layers": layers,
            **({"similar": {str(i): tap.to_json() for i, tap in sorted(self.similar.items())}} if self.similar else {}),
            **({"constants": passed_on} if passed_on else {}),
            **({"factors": {str(i): f.to_json() for i, f in sorted(self.factors.items())}} if self.factors else {}),
        }

    def dumps(self) -> str:
        """Returns the file's text."""
        return json.dumps(self.to_json(), indent=1) + "\n"

    def with_hashes(self, cfg: str, weights: str) -> Plan:
        """Returns the plan with the hashes of its pair, which may still be computed while it is made."""
        return replace(self, cfg_sha256=cfg, weights_sha256=weights)

    def classes(self, channels: ChannelMap) -> tuple[BoolArray, BoolArray]:
        """Turns positions into classes.

        Args:
            channels: labels of the network that the plan is for.

        Returns:
            keep and carriers per class.

        Raises:
            PlanError: the plan does not name the network's layers, cuts a pinned channel, cuts coupled convolutions
                differently, or leaves blocks unequal.
        """
        keep = np.ones(channels.count, bool)
        carriers = np.zeros(channels.count, bool)
        decided: dict[int, int] = {}
        for index, (width, kept, carried) in sorted(self.layers.items()):
            classes = self._classes_of(channels, index, width)
            mask, role = np.zeros(width, bool), np.zeros(width, bool)
            mask[list(kept)] = True
            role[list(carried)] = True
            if not mask.any():
                raise PlanError(f"plan: layer {index} would keep no channel; keep at least one")
            if (role & ~mask).any():
                raise PlanError(f"plan: layer {index}: carriers must be among the channels kept")
            for position in np.flatnonzero(~mask | role).tolist():
                reasons = channels.pinned[int(classes[position])]
                if reasons:
                    raise PlanError(f"plan: layer {index}: channel {position} cannot go: {reasons[0]}")
            for position, number in enumerate(classes.tolist()):
                first = decided.setdefault(number, index)
                if first != index and (keep[number] != mask[position] or carriers[number] != role[position]):
                    raise PlanError(
                        f"plan: layers {first} and {index} are coupled, but differ at channel {position} of {index}; "
                        "give both the same channels (darkprune groups shows coupled layers)"
                    )
                keep[number], carriers[number] = mask[position], role[position]
        for index, values in self.measured.items():
            if not 0 <= index < len(channels.of_layer) or len(values) != len(channels.of_layer[index]):
                raise PlanError(f"plan: constants of layer {index} do not fit the network; make a new plan")
        check_splits(channels, keep)
        return keep, carriers

    def _classes_of(self, channels: ChannelMap, index: int, width: int) -> Indices:
        if index not in channels.producers:
            raise PlanError(f"plan: layer {index} makes no channels of its own; leave it out of the plan")
        classes = channels.of_layer[index]
        if width != len(classes):
            raise PlanError(
                f"plan: layer {index} has {len(classes)} channels, not {width}; the plan is for another cfg"
            )
        return classes


def check_splits(channels: ChannelMap, keep: BoolArray) -> None:
    """Checks that blocks keep equally many channels.

    Raises:
        PlanError: they do not.
    """
    for split in channels.splits:
        counts = np.where(split.classes < 0, True, keep[split.classes]).sum(axis=1)
        if len(set(counts.tolist())) > 1:
            raise PlanError(
                f"plan: layer {split.layer} reads blocks that would keep {sorted(set(counts.tolist()))} channels; "
                "every block must keep as many"
            )


def make_layers(
    channels: ChannelMap, keep: BoolArray, carriers: BoolArray
) -> dict[int, tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Turns classes into positions, for every producing layer that is cut or holds carriers."""
    layers = {}
    for index in channels.producers:
        classes = channels.of_layer[index]
        if keep[classes].all() and not carriers[classes].any():
            continue
        kept = tuple(np.flatnonzero(keep[classes]).tolist())
        layers[index] = (len(classes), kept, tuple(np.flatnonzero(carriers[classes]).tolist()))
    return layers


def finite(value: str | float) -> float:
    """Returns a number of a JSON text.

    Raises:
        ValueError: it is infinite or none.
    """
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no number")
    return number


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), 7) for value in values]


def _to_ranges(positions: tuple[int, ...]) -> str:
    parts = []
    start = previous = None
    for position in (*positions, None):
        if start is not None and (position is None or position != previous + 1):  # type: ignore[operator]
            parts.append(str(start) if start == previous else f"{start}-{previous}")
            start = None
        if start is None:
            start = position
        previous = position
    return ",".join(parts)
