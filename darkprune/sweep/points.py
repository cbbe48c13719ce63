"""A sweep over pruned networks: its points, and how they compare with the unpruned network at a smaller input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from darkprune.errors import OutputError
from darkprune.evaluation.control import control_at
from darkprune.runners.measure import DISTANCE
from darkprune.runs.digests import plain
from darkprune.runs.json_file import JsonValue
from darkprune.runs.record import Origin, Record
from darkprune.runs.record_file import RecordFile

FORMAT = "darkprune-cliff/2"
NAME = "cliff.json"


@dataclass(frozen=True)
class Point:
    """One measured network.

    Attributes:
        kind: `pruned`, `recovered`, or `control`: the unpruned network at some input size.
        ratio: fraction of channels asked to go; 0 for the control.
        width, height: of the input, in pixels.
        params: stored floats.
        macs: multiply-adds for one image.
        value: mAP@0.5 or agreement (fractions), or the distance to the unpruned network's outputs.
    """

    kind: str
    ratio: float
    width: int
    height: int
    params: int
    macs: int
    value: float

    @property
    def name(self) -> str:
        """The name of its record."""
        return name_of(self.kind, self.ratio, self.width, self.height)


def name_of(kind: str, ratio: float, width: int, height: int) -> str:
    """Returns the name of a point's record."""
    return f"{kind} {ratio:.6g} {width}x{height}"


def read_point(record: Record) -> Point | None:
    """Returns the point of a record; None where the record is damaged."""
    data = JsonValue(record.result)
    numbers = [data[name].number for name in ("ratio", "width", "height", "params", "macs", "value")]
    known = [number for number in numbers if number is not None]
    if len(known) != len(numbers):
        return None
    ratio, width, height, params, macs, value = known
    return Point(data["kind"].text, ratio, int(width), int(height), int(params), int(macs), value)


@dataclass(frozen=True)
class ComparedPoint:
    """A pruned network beside the control.

    Attributes:
        point: the network.
        macs_removed: share of the unpruned network's operations that are gone.
        control: what the control has at as many operations; None below its smallest size.
        beats_control: whether the network is better than that; None where it is not known.
    """

    point: Point
    macs_removed: float
    control: float | None
    beats_control: bool | None

    def to_json(self) -> dict[str, object]:
        """Returns the point and what it is compared with as JSON values."""
        control = None if self.control is None else round(self.control, 6)
        return {**_row(self.point, self.macs_removed), "control": control, "beats_control": self.beats_control}


@dataclass(frozen=True)
class Fall:
    """The steepest step of a curve.

    Attributes:
        from_ratio, to_ratio: between which ratios.
        before, after: values there.
        fall: how much is lost.
    """

    from_ratio: float
    to_ratio: float
    before: float
    after: float
    fall: float

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        return {
            "from_ratio": self.from_ratio,
            "to_ratio": self.to_ratio,
            "before": self.before,
            "behind": self.after,
            "fall": round(self.fall, 7),
        }


@dataclass(frozen=True)
class SweepCurve:
    """Pruned networks by ratio.

    Attributes:
        points: by rising ratio.
        fall: the steepest step; None where nothing falls.
    """

    points: tuple[ComparedPoint, ...]
    fall: Fall | None

    @property
    def beats_control_at(self) -> list[float]:
        """The ratios at which pruning is better than a smaller input."""
        return [compared.point.ratio for compared in self.points if compared.beats_control]


@dataclass(frozen=True)
class Sweep:
    """Everything that was measured.

    Attributes:
        metric: `mAP@0.5` or `agreement` (more is better), or `distance` (less is).
        pruned: without recovery.
        recovered: the same networks after recovery, if there was any.
        controls: the unpruned network, its own size first.
    """

    metric: str
    pruned: SweepCurve
    recovered: SweepCurve | None
    controls: tuple[Point, ...]

    @property
    def base(self) -> Point:
        """The unpruned network at its own size."""
        return self.controls[0]

    @property
    def last(self) -> SweepCurve:
        """The curve that counts: after recovery, if there was any."""
        return self.recovered or self.pruned

    def rows(self) -> list[dict[str, object]]:
        """Returns a row per network: pruned, recovered, then the control."""
        curves = [self.pruned, *([self.recovered] if self.recovered else [])]
        return [*(each.to_json() for curve in curves for each in curve.points), *self._controls()]

    def _controls(self) -> list[dict[str, object]]:
        return [_row(point, removed(point, self.base)) for point in self.controls]

    def to_json(self) -> dict[str, object]:
        """Returns the sweep as JSON values."""
        data: dict[str, object] = {
            "metric": self.metric,
            "unpruned": self.base.value,
            "cliff": None if self.pruned.fall is None else self.pruned.fall.to_json(),
            "pruning_beats_control_at": self.pruned.beats_control_at,
            "pruned": [compared.to_json() for compared in self.pruned.points],
            "control": self._controls(),
        }
        if self.recovered is not None:
            data["recovered"] = [compared.to_json() for compared in self.recovered.points]
            data["recovered_cliff"] = None if self.recovered.fall is None else self.recovered.fall.to_json()
            data["recovery_beats_control_at"] = self.recovered.beats_control_at
        return data


def summarise(points: Iterable[Point], metric: str) -> Sweep:
    """Compares pruned networks with the control at equal operations.

    Args:
        points: measured networks; among the controls the unpruned network at its own size comes first.
    """
    by_kind: dict[str, list[Point]] = {"control": [], "pruned": [], "recovered": []}
    for point in points:
        by_kind[point.kind].append(point)
    base, *smaller = by_kind["control"]
    controls = (base, *sorted(smaller, key=lambda point: -point.macs))
    recovered = _curve(by_kind["recovered"], controls, metric) if by_kind["recovered"] else None
    return Sweep(metric, _curve(by_kind["pruned"], controls, metric), recovered, controls)


def removed(point: Point, base: Point) -> float:
    """Returns the share of the operations that a network does without."""
    return round(1 - point.macs / base.macs, 6)


def open_records(folder: Path, origin: Origin, overwrite: bool) -> RecordFile:
    """Opens the file of a sweep: it is written after every measurement, so that a killed sweep goes on.

    Args:
        origin: what all its points have in common.
        overwrite: forget what the file holds of another sweep.

    Raises:
        OutputError: it holds another sweep's points, or something else.
    """
    records = RecordFile(folder / NAME, FORMAT, {}, "points")
    if not records.path.exists():
        return records
    try:
        records.load()
        found = (name for record in records.records.values() for name in _differing(record.origin, origin))
        differing = next(found, "")
        why = f"is of another sweep (other {differing})" if differing else ""
    except OutputError:
        why = "is not an earlier sweep, or broken"
    if why and not overwrite:
        raise OutputError(f"{records.path}: {why}; choose another -o, or --overwrite")
    if why:
        records.records.clear()
    return records


def origin_of(sweep: Origin, name: str) -> Origin:
    """Returns what decides the point of that name."""
    return Origin(sweep.step, {**sweep.settings, "point": name}, sweep.inputs)


def _differing(found: Origin, sweep: Origin) -> Iterable[str]:
    """Yields what an earlier point does not have in common with a sweep."""
    digests = [{role: entry.sha256 for role, entry in origin.inputs.items()} for origin in (found, sweep)]
    yield from (role for role in {**digests[0], **digests[1]} if digests[0].get(role) != digests[1].get(role))
    if {name: value for name, value in found.settings.items() if name != "point"} != plain(sweep.settings):
        yield "settings"
    if found.program != sweep.program:
        yield "version of darkprune"


def _curve(points: Sequence[Point], controls: Sequence[Point], metric: str) -> SweepCurve:
    sign, base = -1 if metric == DISTANCE else 1, controls[0]
    sizes = [(float(point.macs), point.value) for point in controls]
    compared = []
    for point in points:
        control = control_at(sizes, point.macs)
        beats = None if control is None else sign * (point.value - control) > 0
        compared.append(ComparedPoint(point, removed(point, base), control, beats))
    fall, before, after = max(
        ((sign * (a.value - b.value), a, b) for a, b in pairwise([base, *points])), key=lambda step: step[0]
    )
    steepest = Fall(before.ratio, after.ratio, before.value, after.value, fall) if fall > 0 else None
    return SweepCurve(tuple(compared), steepest)


def _row(point: Point, macs_removed: float) -> dict[str, object]:
    return {**asdict(point), "macs_removed": macs_removed}
