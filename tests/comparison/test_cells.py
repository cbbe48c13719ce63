"""Cells, their shares and what their steps' hashes depend on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.cli.compression.compare import _harmed
from darkprune.comparison.amounts import Amount, parse_amount
from darkprune.comparison.cells import RECOVERIES, SPARSITIES, Cell, grid, share
from darkprune.comparison.methods import METHODS, Method, method_of
from darkprune.comparison.settings import CompareSettings
from darkprune.comparison.setup import Setup
from darkprune.comparison.table import Records, Row, make_rows
from darkprune.errors import DarkpruneError, UsageError
from darkprune.graph.graph import read_graph
from darkprune.graph.groups import divide
from darkprune.graph.stats import totals
from darkprune.runs.record import Input, Origin, Record, StepError, fill_file, fill_folder, read_record
from darkprune.selection.budget import Budget
from darkprune.selection.decide import decide, rank
from darkprune.selection.reach import units_above, units_within
from darkprune.selection.settings import Selection
from darkprune.surgery.removed_units import reduced
from darkprune.surgery.units import choose_units
from darkprune.zoo import resolve
from tests.assets import open_pair

lists = st.lists(st.sampled_from(["0.9", "0.5", "12G"]), min_size=1, unique=True)
beside_recoveries = [name for name, method in METHODS.items() if not method.trains]
methods = st.lists(st.sampled_from([*beside_recoveries, "layer+group", "layer+thinet"]), min_size=1, unique=True)
recoveries = st.lists(st.sampled_from([*RECOVERIES, "lsq+distill", "bn+finetune+distill"]), min_size=1, unique=True)
sparsities = st.lists(st.sampled_from(SPARSITIES), min_size=1, unique=True)


@settings(max_examples=25, deadline=None)
@given(methods, lists, recoveries, st.lists(st.integers(0, 5), min_size=1, unique=True), sparsities, st.integers(1, 9))
def test_shares_divide_the_cells(
    methods: list[str], budgets: list[str], recoveries: list[str], seeds: list[int], sparse: list[str], count: int
) -> None:
    cells = grid(methods, budgets, recoveries, seeds, sparse)
    assert len({cell.name for cell in cells}) == len(cells) == len(set(cells))
    shares = [share(cells, f"{number}/{count}") for number in range(1, count + 1)]
    assert sorted(cell.name for part in shares for cell in part) == sorted(cell.name for cell in cells)
    cuts = [{cell.cut_name for cell in part} for part in shares]
    assert sum(map(len, cuts)) == len(set().union(*cuts))  # no cut is made by two jobs
    starts = [{cell.start_name for cell in part if cell.start_name} for part in shares]
    assert sum(map(len, starts)) == len(set().union(*starts))  # and nothing is trained by two
    for cell in cells:
        step = cell
        while step.previous is not None:
            assert len(step.previous.chain) == len(step.chain) - 1
            step = step.previous
        assert step.training is None
        assert step.cut_name == cell.cut_name


def test_what_is_not_drawn_stands_for_all_seeds() -> None:
    cells = grid(["group", "thinet"], ["0.5"], ["none", "lsq", "finetune"], [3, 4])
    seeds = {(method, recovery): [] for method in ("group", "thinet") for recovery in ("none", "lsq", "finetune")}
    for cell in cells:
        seeds[cell.method, cell.recovery].append(cell.seed)
    assert seeds.pop(("group", "none")) == [0]
    assert all(found == [3, 4] for found in seeds.values())
    assert {cell.cut_seed for cell in cells if cell.method == "group"} == {0}


@pytest.mark.parametrize(
    ("methods", "recoveries", "message"),
    [
        (["slimmin"], ["none"], "did you mean slimming"),
        (["layer+layer"], ["none"], "no such method"),
        (["zzz"], ["none"], "there are slimming"),
        (["group"], ["finetun"], "did you mean finetune"),
        (["group"], ["finetune+lsq"], "joins one of"),
        (["group"], ["lsq+bn"], "joins one of"),
        (["group"], ["distill+finetune"], "joins one of"),
        (["group"], ["none+finetune"], "joins one of"),
        (["gradual"], ["lsq"], "leaves no plan, which recovery lsq needs"),
        (["layer+gradual"], ["none"], "no such method"),
    ],
)
def test_names_that_do_not_exist(methods: list[str], recoveries: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grid(methods, ["0.5"], recoveries, [0])


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2"])
def test_shares_that_do_not_exist(text: str) -> None:
    with pytest.raises(UsageError, match="--cell"):
        share(grid(["group"], ["0.5"], ["none"], [0]), text)


INPUTS = {role: Input("", role) for role in ("cfg", "weights", "valid", "train", "images")}
GROUP, LSQ, TUNED, EAGLE = (
    Cell("group", "0.5", "none", 0),
    Cell("group", "0.5", "lsq", 0),
    Cell("group", "0.5", "lsq+finetune", 0),
    Cell("eagleeye", "0.5", "none", 0),
)


def setup_of(folder: Path, **settings: Any) -> Setup:
    chosen = CompareSettings(data="d", **settings)
    return Setup(cfg=folder / "n.cfg", weights=folder / "n.weights", folder=folder, settings=chosen, inputs=INPUTS)


def keys(setup: Setup, cell: Cell) -> list[str]:
    return [origin.key for origin in (setup.cut_origin(cell), setup.pair_origin(cell), setup.measure_origin(cell))]


def test_a_changed_setting_concerns_what_it_concerns(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)

    def changed(other: Setup) -> list[list[bool]]:
        both = [zip(keys(setup, cell), keys(other, cell), strict=True) for cell in (GROUP, LSQ, TUNED, EAGLE)]
        return [[before != after for before, after in pairs] for pairs in both]

    def with_input(role: str) -> Setup:
        return replace(setup, inputs={**INPUTS, role: Input("", "other")})

    nothing, measured, pair, all_three = [False] * 3, [False, False, True], [False, True, True], [True] * 3
    assert changed(replace(setup, runner="opencv")) == [measured] * 4
    assert changed(setup_of(tmp_path, epochs=3)) == [nothing, nothing, pair, nothing]
    assert changed(setup_of(tmp_path, candidates=6)) == [nothing, nothing, nothing, all_three]
    assert changed(setup_of(tmp_path, round_to=8)) == [all_three] * 4
    assert changed(setup_of(tmp_path, budget_of="params")) == [all_three] * 4
    assert changed(with_input("images")) == [nothing, pair, pair, all_three]
    assert changed(with_input("train")) == [nothing, nothing, pair, all_three]  # candidates are compared by mAP
    assert changed(with_input("valid")) == [measured] * 4
    assert changed(with_input("weights")) == [all_three] * 4
    assert changed(setup_of(tmp_path, device="cpu", jobs=3, no_times=True)) == [nothing] * 4


@pytest.mark.parametrize(
    "other",
    [
        Method(Selection(criterion="l1")),
        Method(Selection(allocation="global")),
        Method(Selection(similarity=0.9)),
        Method(Selection(), images=True),
        Method(Selection(), images=True, finish="bn"),
        Method(Selection(), units=True),
        Method(Selection(), rounds=2),
        Method(Selection(), searches=True),
    ],
)
def test_methods_share_no_results(tmp_path: Path, other: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_of(tmp_path)
    before = keys(setup, GROUP)
    monkeypatch.setitem(METHODS, "group", other)
    assert not set(keys(setup, GROUP)) & set(before)


def test_recoveries_share_no_results(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    found = [keys(setup, Cell("group", "0.5", recovery, 0)) for recovery in (*RECOVERIES, "lsq+distill", "bn+distill")]
    assert len({tuple(each[:1]) for each in found}) == 1  # all start from one cut
    assert len({each[1] for each in found}) == len({each[2] for each in found}) == len(found)
    assert keys(setup, Cell("group", "0.5", "lsq", 1))[1] != found[1][1]  # another seed


def test_a_step_is_done_once_and_its_failure_is_kept(tmp_path: Path) -> None:
    done: list[str] = []

    def work() -> dict[str, object]:
        done.append("work")
        return {"figure": 1}

    def fill(out: Path) -> dict[str, object]:
        (out / "pair").write_text(str(len(done)))
        raise ValueError("what?\nwhy?")

    for _ in range(2):
        assert fill_file(tmp_path / "a.json", Origin("k"), work).result == {"figure": 1}
        with pytest.raises(StepError, match=r"ValueError: what\? why\?"):
            fill_folder(tmp_path / "b", Origin("k"), fill)
    assert done == ["work"]
    assert not (tmp_path / "b" / "pair").exists()
    record = read_record(tmp_path / "b" / "record.json")
    assert record is not None
    assert "in fill" in str(record.trace)
    fill_file(tmp_path / "a.json", Origin("other"), work)
    (tmp_path / "a.json").write_text('{"step": "other", "result"')
    fill_file(tmp_path / "a.json", Origin("other"), work)
    assert done == ["work"] * 3


def test_rows_average_over_seeds() -> None:
    def record(value: float, **more: object) -> Record:
        sizes = {"width": 64, "height": 64, "params": 10, "macs": 100, "bytes": 40, "cfg_sha256": "x", "seconds": 2.0}
        return Record(origin=Origin("k"), result={**sizes, "map50": value, "map": value / 2, **more})

    def failed(error: str) -> Record:
        return Record(origin=Origin("k"), done=False, error=error)

    cells = [Cell("thinet", "0.5", "none", seed) for seed in (0, 1, 2)] + [Cell("layer", "0.5", "none", 0)]
    records = dict(zip(cells, [record(0.5), record(0.7), failed("no"), failed("none")], strict=True))
    unpruned = [record(0.9, macs=200), record(0.65, macs=150), record(0.4, macs=50)]
    rows = make_rows(Records(cells=records, unpruned=unpruned, ms={"x": 3.0}))
    assert [row.kind for row in rows] == ["unpruned", "control", "control", "pruned", "pruned"]
    pruned, layer = rows[3:]
    assert pruned.map50 == pytest.approx(0.6)
    assert pruned.map50_std == pytest.approx(0.2 / math.sqrt(2))
    assert (pruned.seeds, pruned.ms) == (2, 3.0)
    assert pruned.control == pytest.approx((0.65 + 0.4) / 2)
    assert pruned.beats_control
    assert pruned.failed == "1 of 3 failed: no"
    assert (layer.map50, layer.failed, layer.beats_control) == (None, "none", None)


def test_units_for_a_budget() -> None:
    cfg = resolve("builtin:scenes")
    with open_pair(cfg, resolve("builtin:scenes", "weights")) as weights:
        before = totals(read_graph(cfg)).macs
        one = totals(reduced(weights, choose_units(weights, 1)).graph).macs
        assert units_within(weights, Budget("macs", one)) == 1
        assert units_above(weights, Budget("macs", one)) == 0
        assert units_within(weights, Budget("macs", one - 1)) == 2
        assert units_above(weights, Budget("macs", one - 1)) == 1
        with pytest.raises(DarkpruneError, match="without any of them"):
            units_within(weights, Budget("macs", before / 100))
        assert units_above(weights, Budget("macs", before / 100)) >= 2
        amount = Amount(budget=Budget("macs", one - 1))
        limited = CompareSettings(data="d", round_to=4).limited
        selection, rest = method_of("layer+group").select(weights, amount, "macs", limited)
        assert (selection.units, selection.round_to) == (1, 4)
        assert rest == Budget("macs", one - 1)
        assert method_of("layer").select(weights, amount, "macs")[1] is None


def test_amounts() -> None:
    """Ratios are taken as they are where a method can; every other method gets the size that group pruning leaves."""
    with open_pair(resolve("builtin:scenes"), resolve("builtin:scenes", "weights")) as weights:
        before = totals(weights.graph)
        groups = len(divide(weights.graph, "auto"))
        whole = parse_amount("macs", "0.6", before)
        assert whole.budget == Budget("macs", 0.6 * before.macs)
        half = parse_amount("channels", "0.6", before)
        each = parse_amount("macs", ":".join(["0.4"] * groups), before)
        assert (half.budget, half.ratio, each.ratios) == (None, pytest.approx(0.4), (0.4,) * groups)
        group, slimming, layer = method_of("group"), method_of("slimming"), method_of("layer+group")
        assert group.select(weights, half, "channels") == (replace(group.settings, ratio=half.ratio), None)
        assert slimming.select(weights, half, "channels")[0] == replace(slimming.settings, ratio=half.ratio)
        chosen, rest = group.select(weights, each, "macs")
        assert (chosen.ratios, chosen.allocation, rest) == (each.ratios, "explicit", None)
        left = decide(rank(weights, chosen), chosen).after
        assert slimming.select(weights, each, "params") == (slimming.settings, Budget("params", left.params))
        assert layer.select(weights, half, "channels")[1] == Budget("macs", left.macs)  # the same ratio in every group
        assert method_of("eagleeye").select(weights, half, "channels")[1] == Budget("macs", left.macs)
        assert parse_amount("macs", "table1-model2", before).preset == "table1-model2"
        for text in ("0.4:x", "0.4:1.2", "much"):
            with pytest.raises(UsageError):
                parse_amount("macs", text, before)
        for text in ("0", "1.5", "3M"):
            with pytest.raises(UsageError, match="--budgets"):
                parse_amount("channels", text, before)


def test_training_that_does_harm_is_named() -> None:
    rows = [Row("pruned", "group", "0.7", recovery, 1, map50=map50) for recovery, map50 in (
        ("none", 0.5), ("finetune", 0.6), ("distill", 0.1), ("lsq", 0.7), ("lsq+distill", 0.65), ("bn", 0.2),
        ("scale+distill", 0.1),
    )]  # fmt: skip
    assert _harmed(rows) == [
        "group at 0.7, distill, 50.00 before, 10.00 after", "group at 0.7, lsq+distill, 70.00 before, 65.00 after",
    ]  # fmt: skip
