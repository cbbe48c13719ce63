"""Tables of the paper as comparisons, and the axes that they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import darkprune as dp
from darkprune.cli.main import main
from darkprune.comparison import train
from darkprune.comparison.cells import grid
from darkprune.comparison.paper import PUBLISHED, TABLES, published_for, with_paper
from darkprune.comparison.settings import CompareSettings
from darkprune.data.reading import read_dataset
from darkprune.data.scenes import write_scenes
from darkprune.graph.graph import Graph
from darkprune.runs.digests import digest_of_file
from darkprune.search import eagle_eye
from darkprune.selection.allocation import TABLE1

FEW = ("--iterations", "2", "--batch", "4", "--lr", "0.0001", "--min-channels", "2", "--no-times", "--device", "cpu")


def compare(
    pair: list[str], data: Path, output: Path, capsys: pytest.CaptureFixture[str], *more: object
) -> list[dict[str, Any]]:
    capsys.readouterr()
    given = ["--data", str(data), "-o", str(output), *FEW, *map(str, more)]
    assert main(["compare", *pair, *given, "--json"]) == 0, capsys.readouterr().err
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    return rows


def network(name: str) -> Graph:
    return dp.load(f"builtin:{name}").graph


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_a_comparison(name: Any) -> None:
    for cfg in ("yolov4-voc", "darknet53-yolov3-voc", "mobilenet-yolov3-voc", "scenes"):
        settings = with_paper(CompareSettings(data="d", paper=name), network(cfg))
        assert grid(settings.methods, settings.budgets, settings.recoveries, settings.seeds, settings.sparsities)
        assert settings.policy == "cosine"
        assert (settings.epochs, settings.sparse_epochs) == (50, 200)


def test_what_the_user_gives_stays() -> None:
    graph = network("yolov4-voc")
    found = with_paper(CompareSettings(data="d", paper="table3"), graph)
    assert (found.budgets, found.batch, found.s) == (tuple(TABLE1), 16, 0.00075)
    own = CompareSettings(data="d", paper="table3", budgets=("0.5",), batch=4, iterations=9, sparsities=("constant",))
    found = with_paper(own, graph)
    assert (found.budgets, found.batch, found.sparsities) == (("0.5",), 4, ("constant",))
    assert (found.epochs, found.iterations, found.sparse_epochs) == (None, 9, None)  # as short as the rest
    assert found.recoveries == ("none", "finetune", "finetune+distill")


def test_published_rows_are_rows_of_the_tables() -> None:
    """Whatever was published has a row that it is printed beside; the two are joined by these names."""
    for cfg, tables in (("yolov4-voc", ("table3", "table9")), ("darknet53-yolov3-voc", ("table10", "table9")),
                        ("mobilenet-yolov3-voc", ("table11", "table9"))):  # fmt: skip
        graph = network(cfg)
        rows = {("", "", "", "")}
        for table in tables:
            settings = with_paper(CompareSettings(data="d", paper=table), graph)
            axes = settings.methods, settings.budgets, settings.recoveries, settings.seeds, settings.sparsities
            rows |= {(cell.sparsity, cell.method, cell.budget, cell.recovery) for cell in grid(*axes)}
            rows |= {(sparsity, "", "", "") for sparsity in settings.sparsities}
        assert set(published_for(graph)) <= rows
    assert published_for(network("scenes")) == {}
    assert PUBLISHED["yolov4"]["dynamic", "group", "table1-model2", "finetune+distill"] == 0.866


@pytest.mark.slow
def test_a_table_on_ones_own_network(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    rows = compare(pair, data, output, capsys, "--paper", "table10", "--budgets", "0.7", "--seeds", "0,1")
    assert [(row["kind"], row["sparsity"], row["recovery"]) for row in rows if row["kind"] in ("sparse", "pruned")] == [
        ("sparse", "dynamic", ""), ("pruned", "dynamic", "none"), ("pruned", "dynamic", "finetune"),
        ("pruned", "dynamic", "finetune+distill"),
    ]  # fmt: skip
    assert all(row["seeds"] == 2 and not row["failed"] for row in rows if row["kind"] in ("sparse", "pruned"))
    assert all(row["published"] is None for row in rows)  # of another network nothing was published
    weights = {path.parent.name: path.read_bytes() for path in output.glob("pairs/*/net.weights")}
    assert len(set(weights.values())) == len(weights) == 6
    assert (output / "sparse" / "dynamic_s0" / "gamma.npz").is_file()
    assert (output / "sparsity.png").read_bytes().startswith(b"\x89PNG")
    plan = json.loads((output / "cuts" / "dynamic_group_0.7_s1" / "plan.json").read_text())
    assert plan["weights"]["sha256"] == digest_of_file(output / "sparse" / "dynamic_s1" / "net.weights")
    assert not list((output / "runs").iterdir())


@pytest.mark.slow
def test_constant_and_dynamic(pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    sparse = ("--methods", "group", "--sparsities", "none,constant,dynamic", "--budgets", "0.7", "--s", "5")
    rows = compare(pair, data, output, capsys, *sparse, "--sparse-epochs", "2")
    pruned = [(row["sparsity"], row["seeds"]) for row in rows if row["kind"] == "pruned"]
    assert pruned == [("none", 1), ("constant", 1), ("dynamic", 1)]
    starts = [(output / "sparse" / name / "net.weights").read_bytes() for name in ("constant_s0", "dynamic_s0")]
    assert len({*starts, Path(pair[1]).read_bytes()}) == 3
    for name in ("constant_s0", "dynamic_s0"):
        assert len((output / "sparse" / name / "log.csv").read_text().splitlines()) == 1 + 2 * 3  # two epochs of 10
    assert main(["compare", *pair, "--data", str(data), "-o", str(output), *FEW, *sparse, "--sparse-epochs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "sparsity" in shown
    assert "constant" in shown


@pytest.mark.slow
def test_pruning_inside_the_run(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--methods", "gradual", "--budgets", "0.7", "--recoveries", "none,finetune", "--iterations", "24")
    rows = compare(pair, data, tmp_path / "out", capsys, *more)
    whole, *_, plain, tuned = rows
    assert (plain["failed"], tuned["failed"]) == ("", "")
    assert abs(plain["macs"] / whole["macs"] - 0.7) < 0.05
    assert tuned["macs"] == plain["macs"]
    rows = compare(pair, data, tmp_path / "channels", capsys, "--budget-of", "channels", *more[:5], "none", *more[6:])
    assert rows[-1]["failed"] == ""
    assert rows[-1]["macs"] < whole["macs"]


def test_channels_are_a_budget(pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--methods", "group,slimming,eagleeye,layer+group", "--budget-of", "channels", "--budgets", "0.6")
    rows = compare(pair, data, tmp_path / "out", capsys, *more, "--candidates", "9")
    by_method = {row["method"]: row for row in rows if row["kind"] == "pruned"}
    assert [row["failed"] for row in by_method.values()] == [""] * 4
    plan = json.loads((tmp_path / "out" / "cuts" / "group_0.6_s0" / "plan.json").read_text())
    assert plan["settings"]["ratio"] == pytest.approx(0.4)
    for method in ("eagleeye", "layer+group"):  # of equal size, since they go by a budget
        assert by_method[method]["macs"] == pytest.approx(by_method["group"]["macs"], rel=0.02)


def test_layers_by_class_separation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_scenes(tmp_path / "scenes", train=24, valid=2)
    more = ("--methods", "layer-separation,layer", "--budgets", "0.95")
    rows = compare(["builtin:scenes", "builtin:scenes"], data, tmp_path / "out", capsys, *more)
    assert [row["failed"] for row in rows[-2:]] == ["", ""]
    units = [json.loads((tmp_path / "out" / "cuts" / f"{method}_0.95_s0" / "plan.json").read_text())["units"]
             for method in ("layer-separation", "layer")]  # fmt: skip
    assert all(0 <= unit["score"] <= 1 for unit in units[0])
    assert [unit["score"] for unit in units[0]] != [unit["score"] for unit in units[1]]


def test_candidates_are_chosen_by_map_on_other_images(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    whole = eagle_eye.search_allocation

    def watched(*args: Any) -> Any:
        found = whole(*args)
        seen.append((args[3].labelled, found))
        return found

    monkeypatch.setattr(eagle_eye, "search_allocation", watched)
    more = ("--methods", "eagleeye", "--candidates", "2", "--budgets", "0.7")
    compare(pair, data, tmp_path / "a", capsys, *more)
    labelled, found = seen.pop()
    measured = {image.path for image in read_dataset(data, "valid").images}
    assert labelled is not None
    assert {image.path for image in labelled.images}.isdisjoint(measured)
    assert [each.loss for each in found.candidates] == sorted(each.loss for each in found.candidates)
    listed = tmp_path / "data" / "valid.txt"  # one split only: its labels are what is measured on
    compare(pair, listed, tmp_path / "b", capsys, *more, "--images", tmp_path / "data" / "train.txt")
    assert seen.pop()[0] is None


@pytest.mark.slow
def test_the_teacher(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    whole = train.distil_network

    def watched(teacher: tuple[Graph, Path], *args: Any) -> Any:
        seen.append(teacher[1])
        return whole(teacher, *args)

    monkeypatch.setattr(train, "distil_network", watched)
    other = tmp_path / "teacher.weights"
    other.write_bytes(Path(pair[1]).read_bytes()[:-4] + np.float32(0.5).tobytes())
    more = ("--methods", "group", "--budgets", "0.8", "--recoveries", "distill", "--sparsities", "dynamic")
    compare(pair, data, tmp_path / "out", capsys, *more)
    assert seen == [Path(pair[1])]  # not the one that was trained sparsely
    compare(pair, data, tmp_path / "out", capsys, *more, "--teacher", pair[0], other)
    assert seen == [Path(pair[1]), other]


def test_labels_that_are_needed_and_not_there(
    pair: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = str(tmp_path / "data" / "valid.txt")
    for more in (["--sparsities", "dynamic"], ["--methods", "gradual"], ["--methods", "layer-separation"]):
        given = ["--methods", "group", *more, "--data", listed, "-o", str(tmp_path / "out")]
        assert main(["compare", *pair, *given]) == 2
        assert "measured on too" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cfg", "table"),
    [("yolov4-voc", "table3"), ("darknet53-yolov3-voc", "table10"), ("mobilenet-yolov3-voc", "table11")],
)
def test_the_papers_networks(cfg: str, table: Any, data: Path, tmp_path: Path) -> None:
    """Sparse training, cut, fine-tuning, distillation, measurement, ONNX: few images, few steps, a small input."""
    names = ("disc", "square", *(f"other {number}" for number in range(18)))
    (data.parent / "x.names").write_text("\n".join(names) + "\n")
    text = str(dp.load(f"builtin:{cfg}").graph.cfg).replace("width=416", "width=64").replace("height=416", "height=64")
    (tmp_path / "net.cfg").write_text(text)
    dp.init(dp.load(tmp_path / "net.cfg"), tmp_path / "net.weights", dp.InitSettings(vary=True))
    pair = dp.load(tmp_path / "net.cfg", tmp_path / "net.weights")
    budget = {"table3": "table1-model2", "table10": "yolov3", "table11": "0.35"}[table]
    settings = dp.CompareSettings(
        data=data, paper=table, budgets=(budget,), recoveries=("finetune+distill",), iterations=2, batch=2,
        no_times=True, device="cpu",
    )  # fmt: skip
    result = dp.compare(pair, tmp_path / "out", settings)
    whole, sparse, pruned = [row for row in result.rows if row.kind != "control"]
    assert (sparse.kind, sparse.sparsity, pruned.failed) == ("sparse", "dynamic", "")
    assert pruned.published == published_for(pair.graph)["dynamic", "group", budget, "finetune+distill"]
    assert pruned.params is not None
    assert whole.params is not None
    assert pruned.params < 0.6 * whole.params
    folder = next((tmp_path / "out" / "pairs").glob("*finetune+distill*"))
    exported = dp.export(dp.load(folder / "net.cfg", folder / "net.weights"), tmp_path / "net.onnx")
    assert exported.onnx.stat().st_size > 1e6
