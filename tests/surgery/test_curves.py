"""Allocation by measured curves : the least summed loss, and a cache that trusts no file."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.runs.record import Origin, Record
from darkprune.search import curve_cache
from darkprune.search.curve_cache import CurveCache
from darkprune.selection.budget import HIGHEST
from darkprune.selection.curves import Curve, Curves
from darkprune.zoo import resolve

RATIOS = (0.25, 0.5, 0.75, HIGHEST)


def curve(name: str, losses: list[float], saved: list[float], whole: float = 100.0) -> Curve:
    """A curve of 40 channels from losses, which are −log(retained)."""
    retained = tuple(float(np.exp(-loss)) for loss in losses)
    return Curve(name, 40, RATIOS, retained, {"macs": tuple(whole - value for value in saved)})


def curves(*each: Curve) -> Curves:
    return Curves("distance", {"macs": 100.0}, each)


def test_the_cheaper_group_goes_first() -> None:
    cheap, costly = curve("g1", [0.1, 0.2, 0.3, 0.4], [5, 10, 15, 20]), curve("g2", [1, 2, 3, 4], [5, 10, 15, 20])
    path = curves(cheap, costly).path("macs")
    assert path(0) == (0, 0)
    assert path(0.25) == (pytest.approx(0.5, abs=1e-3), 0)
    assert path(0.5) == (pytest.approx(HIGHEST), 0)
    assert path(0.75) == (pytest.approx(HIGHEST), pytest.approx(0.5, abs=1e-3))
    assert path(1) == (pytest.approx(HIGHEST), pytest.approx(HIGHEST))


def test_what_saves_more_for_the_same_loss_goes_first() -> None:
    path = curves(curve("g1", [1, 2, 3, 4], [1, 2, 3, 4]), curve("g2", [1, 2, 3, 4], [8, 16, 24, 32])).path("macs")
    assert path(0.5)[0] == 0
    # in channels both save alike, and the first comes first
    assert curves(curve("g1", [1, 2, 3, 4], [1, 2, 3, 4]), curve("g2", [2, 4, 6, 8], [8, 16, 24, 32])).at_ratio(
        HIGHEST / 2
    ) == (pytest.approx(HIGHEST), 0)


def test_a_bump_is_passed_over_and_noise_is_no_gain() -> None:
    bump = curve("g1", [3.0, 3.0, 3.1, 3.1], [5, 10, 15, 20])  # steep at first, free then: its chord counts
    noisy = curve("g2", [0.5, 0.2, 0.9, 1.2], [5, 10, 15, 20])
    assert noisy.losses.tolist() == pytest.approx([0.5, 0.5, 0.9, 1.2])
    path = curves(bump, noisy).path("macs")
    assert path(0.5) == (0, pytest.approx(HIGHEST))


def test_a_group_that_saves_nothing_by_itself_still_ends_at_its_floor() -> None:
    free, costly = curve("g1", [0.1, 0.1, 0.1, 0.1], [0, 0, 0, 0]), curve("g2", [1, 2, 3, 4], [5, 10, 15, 20])
    path = curves(free, costly).path("macs")
    assert path(0.5)[0] == 0
    assert path(1) == (pytest.approx(HIGHEST), pytest.approx(HIGHEST))
    empty = Curve("g3", 0, RATIOS, (1.0,) * 4, {"macs": (100.0,) * 4})
    assert curves(empty, curve("g2", [1, 2, 3, 4], [5, 10, 15, 20])).path("macs")(1)[0] == 0


_LOSSES = st.lists(st.floats(0.01, 2), min_size=4, max_size=4)


@settings(deadline=None)
@given(st.lists(_LOSSES, min_size=2, max_size=3), st.lists(_LOSSES, min_size=3, max_size=3), st.floats(0.1, 0.9))
def test_no_choice_of_vertices_is_better(steps: list[list[float]], gains: list[list[float]], place: float) -> None:
    """The referee tries all combinations of measured ratios that save at least as much."""
    made = [
        curve(f"g{i}", np.cumsum(loss).tolist(), np.cumsum(gain).tolist())
        for i, (loss, gain) in enumerate(zip(steps, gains, strict=False))
    ]
    found = curves(*made).path("macs")(place)

    def at(curve_: Curve, values: list[float], ratio: float) -> float:
        return float(np.interp(ratio, (0, *curve_.ratios), (0, *values)))

    saved = [[100 - left for left in each.left["macs"]] for each in made]
    total = sum(at(each, values, ratio) for each, values, ratio in zip(made, saved, found, strict=True))
    places = zip(made, saved, found, strict=True)
    loss = sum(_hull(each, values, at(each, values, ratio)) for each, values, ratio in places)
    for chosen in itertools.product(range(5), repeat=len(made)):
        gain = sum((0, *values)[i] for values, i in zip(saved, chosen, strict=True))
        if gain >= total - 1e-9:
            other = sum((0, *each.losses)[i] for each, i in zip(made, chosen, strict=True))
            assert other >= loss - 1e-6


def _hull(curve_: Curve, saved: list[float], gain: float) -> float:
    """The lower convex hull at a saving, by trying all chords."""
    points = list(zip((0, *saved), (0, *curve_.losses), strict=True))
    values = [y for x, y in points if abs(x - gain) < 1e-9]
    for (x0, y0), (x1, y1) in itertools.combinations(points, 2):
        if x0 <= gain <= x1 and x1 > x0:
            values.append(y0 + (y1 - y0) * (gain - x0) / (x1 - x0))
    return min(values)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "net.weights"
    path.write_bytes(b"weights")
    return path


EXPECTED, KINDS, KEY = [("g1", 40), ("g2", 40)], ("macs",), Origin("curves")


def test_cache_gives_back_what_was_kept(weights: Path) -> None:
    kept = [curve("g1", [0.1, 0.2, 0.3, 0.4], [5, 10, 15, 20])]
    cache = CurveCache(weights, "ab" * 32)
    assert cache.find(KEY, EXPECTED, KINDS) == []
    cache.keep(KEY, kept)
    assert cache.path == weights.with_name("net.weights.sensitivity.json")
    again = CurveCache(weights, "ab" * 32)
    assert again.find(KEY, EXPECTED, KINDS) == kept  # the first of a run that was stopped
    assert again.find(Origin("other"), EXPECTED, KINDS) == []
    assert again.problem is None
    for number in range(40):
        again.keep(Origin(str(number)), kept)
    last = CurveCache(weights, "ab" * 32)
    assert last.find(Origin("39"), EXPECTED, KINDS) == kept
    assert last.find(KEY, EXPECTED, KINDS) == []


def _with(**changes: object) -> str:
    whole = {"group": "g1", "channels": 40, "ratios": [0.5], "retained": [0.9], "left": {"macs": [50.0]}, **changes}
    return _file([whole])


def _file(curves: object, **changes: object) -> str:
    record = {**Record(origin=KEY, result={"curves": curves}).to_json(), **changes}
    return json.dumps({"format": curve_cache.FORMAT, "records": {KEY.key: record}})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "[]", "null", '{"format": "darkprune-curves/1", "entries": {}}', _with(group="g2"),
     _with(channels=39), _with(ratios=[0.5, 0.4], retained=[1, 1], left={"macs": [1, 1]}), _with(retained=[1.5]),
     _with(retained=[float("nan")]), _with(retained=["0.9"]), _with(retained=[True]), _with(left={"macs": [-1]}),
     _with(left={}), _with(ratios="0.5"), _with(retained=[0.9, 0.9]), '{"format": "x", "records": {}}', _file([3]),
     _file([], result=3), json.dumps({"format": curve_cache.FORMAT, "records": {KEY.key: 3}})],
)  # fmt: skip
def test_a_damaged_cache_is_not_believed(weights: Path, text: str) -> None:
    weights.with_name("net.weights.sensitivity.json").write_text(text)
    cache = CurveCache(weights, "ab" * 32)
    assert cache.find(KEY, EXPECTED, KINDS) == []
    assert cache.problem is not None
    assert "is damaged; the curves are measured anew" in cache.problem
    kept = [curve("g1", [0.1, 0.2, 0.3, 0.4], [5, 10, 15, 20])]
    cache.keep(KEY, kept)
    assert CurveCache(weights, "ab" * 32).find(KEY, EXPECTED, KINDS) == kept


def test_a_folder_that_cannot_be_written(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_cache.os, "access", lambda path, how: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache = CurveCache(weights, "ab" * 32)
    cache.keep(KEY, [])
    assert cache.path == tmp_path / "cache" / "darkprune" / ("ab" * 16 + ".sensitivity.json")
    assert cache.path.is_file()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    nowhere = CurveCache(weights, "ab" * 32)
    nowhere.keep(KEY, [])
    assert nowhere.problem is not None
    assert nowhere.problem.startswith("the curves are not kept: ")


def test_curves_of_a_checkpoint_that_comes_with_darkprune_are_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CurveCache(resolve("builtin:scenes", "weights"), "ab" * 32).path.is_relative_to(tmp_path)
