"""Without labels a run tries several means, the input size among them, and takes what agrees best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import darkprune as dp
from darkprune.api.compress import preview
from darkprune.compression import slimming
from darkprune.data.scenes import write_scenes
from darkprune.graph.graph import read_graph
from darkprune.runs.stages import Stage

PAIR = ("builtin:scenes", "builtin:scenes")
IMAGES = dp.CompressSettings(images="scenes/train", target_macs=0.3, skip=("factorize", "export"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "scenes", train=24, valid=8)
    return folder


@pytest.fixture(autouse=True)
def place(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(scenes)
    return scenes


def planned(settings: dp.CompressSettings, run: str = "other") -> list[Stage]:
    return [stage for stage, _ in preview(*PAIR, settings, run).stages]


def names(stages: Sequence[Stage]) -> list[str]:
    return [stage.name for stage in stages]


def test_each_size_above_the_budget_is_pruned_down_to_it() -> None:
    stages = planned(IMAGES)
    sizes = ["128x128", "96x96", "64x64"]  # the last is within the budget
    assert names(stages) == [
        "prune", "recover", "prune: 128x128", "prune: 96x96", *(f"prune: without {n} units" for n in (3, 5)),
        "evaluate: original",
        *(f"evaluate: original at {size}" for size in sizes), "evaluate: pruned", "evaluate: recovered",
        "evaluate: pruned at 128x128", "evaluate: pruned at 96x96",
        *(f"evaluate: without {n} units" for n in (3, 5)), "result", "time", "verify",
    ]  # fmt: skip
    at_128 = next(stage for stage in stages if stage.name == "prune: 128x128")
    shares = {stage.name: float(stage.settings["target-macs"]) for stage in stages if stage.name.startswith("prune")}
    assert shares["prune: without 3 units"] == 0.3
    assert shares["prune"] == 0.3
    assert shares["prune: 128x128"] == pytest.approx(0.3 * (160 / 128) ** 2, rel=0.01)
    assert at_128.settings["recover"] == "lsq"
    assert at_128.command[2].endswith("inputs/128x128/scenes.cfg")


def test_many_sizes_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimming, "MOST_SIZES", 2)
    stages = planned(replace(IMAGES, target_macs=0.15))
    tried = [name for name in names(stages) if name.startswith("prune: ") and "unit" not in name]
    assert tried == ["prune: 128x128", "prune: 64x64"]


@pytest.mark.parametrize(
    "settings",
    [
        replace(IMAGES, fixed_input=True),
        replace(IMAGES, target_macs=None, ratio=0.3),
        replace(IMAGES, target_macs=None, target_params=0.5),
        replace(IMAGES, target_macs=None, target_latency=0.5),
        dp.CompressSettings(data="scenes/scenes.data", target_macs=0.5, fixed_input=True),
    ],
)
def test_the_input_size_stays(settings: dp.CompressSettings) -> None:
    found = names(planned(settings))
    assert not any(name.startswith("prune: ") and "unit" not in name for name in found)
    assert not any(name.startswith("evaluate: original at") for name in found)
    assert "evaluate: control" in found


def test_with_labels_the_control_is_a_candidate_too() -> None:
    found = names(planned(dp.CompressSettings(data="scenes/scenes.data", target_macs=0.3, skip=("export",))))
    assert [name for name in found if name.startswith("evaluate: original at")] == ["evaluate: original at 64x64"]
    assert not any(name.startswith("prune: ") or name == "chosen" for name in found)
    assert found[-4:] == ["evaluate: control", "result", "time", "verify"]


def test_the_best_of_several_sizes_learns() -> None:
    stages = planned(replace(IMAGES, stages={"distill": {"iterations": 2}}))
    found = names(stages)
    assert found.index("evaluate: pruned at 96x96") < found.index("chosen") < found.index("distill")
    assert found[-4:] == ["evaluate: distilled", "result", "time", "verify"]
    student = next(stage for stage in stages if stage.name == "distill")
    assert "other/chosen/scenes.weights" in student.command


def test_without_images_the_input_shrinks(tmp_path: Path) -> None:
    settings = dp.CompressSettings(target_macs=0.5, skip=("export",))
    assert names(planned(settings)) == ["result", "time", "verify"]
    assert names(planned(replace(settings, fixed_input=True))) == ["prune", "recover", "result", "time", "verify"]
    assert "prune" in names(planned(replace(settings, stages={"prune": {"min_channels": 4}})))
    result = dp.compress(*PAIR, settings, tmp_path / "run")
    graph = read_graph(result.cfg)
    assert (graph.net.input.w, graph.net.input.h) == (96, 96)
    assert result.weights.read_bytes() == dp.load(*PAIR).weights_file.read_bytes()
    assert "the input becomes 96x96" in result.advice[0]
    assert result.verdict == "it is the original at a smaller input: nothing was cut"
    assert "Before and after" in dp.report(result.run).sections  # although nothing was cut and no cut reported
    assert not (tmp_path / "run" / "inputs" / "drawn").exists()


def test_products_are_tried_where_they_reach_the_budget() -> None:
    settings = replace(IMAGES, skip=("export",))
    stages = planned(settings)  # three quarters of the operations are in 3x3 convolutions: 30 % is out of reach
    made = {stage.name: stage.settings for stage in stages if stage.kind == "factorize"}
    assert list(made) == ["factorize: 128x128", "factorize: 96x96"]
    assert float(made["factorize: 128x128"]["target-macs"]) == pytest.approx(0.3 * (160 / 128) ** 2, rel=0.01)
    assert made["factorize: 96x96"]["recover"] == "lsq"
    assert "evaluate: factorised at 96x96" in names(stages)
    for more in ({"target_macs": 0.6}, {"target_macs": None, "target_params": 0.6}):
        fixed = names(planned(replace(settings, fixed_input=True, **more)))
        assert [name for name in fixed if name.startswith("factorize")] == ["factorize"]
    learns = planned(replace(settings, stages={"distill": {"iterations": 2}}))
    chosen = next(stage for stage in learns if stage.name == "chosen")
    assert not any("factorised" in source.role for source in chosen.sources)  # it has other layers than its teacher
    result = next(stage for stage in learns if stage.name == "result")
    assert any("factorised" in source.role for source in result.sources)


CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\nstride={}\npad=1\nactivation=leaky\n\n"
UNIT = CONV.format(8, 1, 1) + CONV.format(16, 3, 1) + "[shortcut]\nfrom=-3\nactivation=linear\n\n"
RESIDUAL = (
    "[net]\nwidth=64\nheight=64\nchannels=3\n\n" + CONV.format(16, 3, 2) + CONV.format(16, 3, 2) + 3 * UNIT
    + "[convolutional]\nfilters=33\nsize=1\nstride=1\npad=1\nactivation=linear\n\n"
    + "[yolo]\nmask=0,1,2\nanchors=10,14, 30,30, 50,50\nclasses=6\nnum=3\n"
)  # fmt: skip


def test_units_are_tried_where_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "net.cfg").write_text(RESIDUAL)
    dp.init(dp.load(tmp_path / "net.cfg"), tmp_path / "net.weights")
    pair = (tmp_path / "net.cfg", tmp_path / "net.weights")

    def stages(settings: dp.CompressSettings) -> list[Stage]:
        return [stage for stage, _ in preview(*pair, settings, "other").stages]

    found = stages(replace(IMAGES, target_macs=0.6))
    tried = {stage.name: stage for stage in found if stage.name.startswith("prune: without")}
    assert list(tried) == ["prune: without 1 unit", "prune: without 2 units"]
    assert {name: int(stage.settings["units"]) for name, stage in tried.items()} == dict(
        zip(tried, (1, 2), strict=True)
    )
    assert all(float(stage.settings["target-macs"]) == 0.6 for stage in tried.values())
    assert all("round-to" not in stage.settings for stage in found)  # of so few channels 8 are too many at a time
    assert "evaluate: without 2 units" in names(found)
    by_params = stages(replace(IMAGES, target_macs=None, target_params=0.7))
    assert any(name.startswith("prune: without") for name in names(by_params))
    for settings in (
        replace(IMAGES, target_macs=None, ratio=0.3),  # no budget to compare at
        replace(IMAGES, target_macs=0.6, stages={"prune": {"units": 1}}),
        replace(IMAGES, target_macs=0.6, skip=("evaluate", "export")),
        dp.CompressSettings(data="scenes/scenes.data", target_macs=0.6),
        dp.CompressSettings(target_macs=0.6, fixed_input=True, skip=("evaluate",)),
    ):
        assert not any(name.startswith("prune: without") for name in names(stages(settings)))


@pytest.mark.slow
def test_a_network_without_units_is_judged(tmp_path: Path) -> None:
    (tmp_path / "net.cfg").write_text(RESIDUAL)
    dp.init(dp.load(tmp_path / "net.cfg"), tmp_path / "net.weights")
    settings = replace(IMAGES, target_macs=0.6, fixed_input=True)
    result = dp.compress(tmp_path / "net.cfg", tmp_path / "net.weights", settings, tmp_path / "run")
    tried = {network.network: network for network in result.networks if network.network.startswith("without")}
    assert list(tried) == ["without 1 unit", "without 2 units"]
    for network in tried.values():
        assert network.macs == pytest.approx(0.6 * result.networks[0].macs, rel=0.02)
        assert network.agreement is not None or network.distance is not None


def test_ways_with_labels() -> None:
    settings = dp.CompressSettings(data="scenes/scenes.data", target_macs=0.5, skip=("evaluate", "verify", "export"))

    def criteria(stages: Sequence[Stage]) -> dict[str, str]:
        return {stage.name: stage.settings.get("criterion", "auto") for stage in stages if stage.kind == "prune"}

    sparse, refit, best = (planned(replace(settings, way=way)) for way in ("sparse", "refit", "best"))
    assert names(sparse) == ["sparse", "prune", "recover", "finetune", "result"]
    assert criteria(sparse) == {"prune": "auto"}
    assert names(refit) == ["prune", "recover", "finetune", "result"]
    distilled = planned(replace(settings, stages={"distill": {"epochs": 1}}))
    assert names(distilled) == ["prune", "recover", "distill", "result"]
    assert criteria(refit) == {"prune": "surgeon"}
    assert names(planned(settings)) == names(refit)  # what is done by default
    assert names(best) == [
        "sparse", "prune", "recover", "prune: directly", "recover: directly", "distill", "finetune",
        "distill: directly", "finetune: directly", "result",
    ]  # fmt: skip
    assert criteria(best) == {"prune": "auto", "prune: directly": "surgeon"}
    student = next(stage for stage in best if stage.name == "finetune: directly")
    assert "other/recovered-directly/scenes.weights" in student.command
    with pytest.raises(dp.DarkpruneError, match="--way best trains on labels"):
        planned(replace(IMAGES, way="best"))


def test_widths_are_multiples_of_8() -> None:
    def widths(**stages: dict[str, object]) -> list[object]:
        made = {each.name: each.settings for each in planned(replace(IMAGES, skip=("export",), stages=stages))}
        return [made[name].get("round-to") for name in ("prune", "factorize: 128x128")]

    assert widths() == ["8", "8"]
    assert widths(prune={"round_to": 4}) == ["4", "4"]
    assert widths(prune={"round_to": 4}, factorize={"round_to": 1}) == ["4", "1"]


@pytest.mark.slow
def test_the_result_agrees_best(tmp_path: Path) -> None:
    result = dp.compress(*PAIR, replace(IMAGES, skip=("export",)), tmp_path / "run")
    assert result.figures.macs <= 0.31 * dp.load(*PAIR).graph.macs
    slim = [network for network in result.networks if network.macs <= 0.31 * result.networks[0].macs]
    assert len(slim) == 9
    assert {"without 3 units", "without 5 units"} < {network.network for network in slim}
    assert result.verdict
    assert max(network.agreement or 0 for network in slim) - (result.figures.agreement or 0) <= 0.005
    agreements = {network.network: network.agreement or 0 for network in result.networks}
    assert agreements["original at 64x64"] < agreements["original"] < 1  # each finds other objects at its size
    assert {network.network for network in result.networks if network.ms} == {"original", result.figures.network}
    assert (result.figures.control_ms or 0) > 0
    again = dp.compress(*PAIR, replace(IMAGES, skip=("export",)), tmp_path / "run")
    assert again.to_json() == result.to_json()
    learnt = dp.compress(
        *PAIR, replace(IMAGES, skip=("export",), stages={"distill": {"iterations": 2, "batch": 4}}), tmp_path / "run"
    )
    assert learnt.networks[-1].network == "distilled"
    assert read_graph(tmp_path / "run" / "distilled" / "scenes.cfg").net.input == read_graph(result.cfg).net.input


@pytest.mark.slow
def test_the_control_of_a_fixed_input_is_shown(tmp_path: Path) -> None:
    settings = replace(IMAGES, fixed_input=True, target_macs=0.7)
    result = dp.compress(*PAIR, settings, tmp_path / "run")
    control = result.networks[-1]
    recovered = next(network for network in result.networks if network.network == "recovered")
    assert control.network == "original at 160x160 to 128x128"
    assert control.agreement == recovered.control
    assert not control.result
