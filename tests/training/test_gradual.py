"""Pruning inside a run: what goes when, what is carried through a cut, and that runs go on and share it exactly."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from darkprune.cli.compression import distill, prune, train
from darkprune.darknet.weights import Header
from darkprune.errors import DarkpruneError, PlanError, UsageError
from darkprune.graph.graph import read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.network import Network, save_weights, tensor_of
from darkprune.runs.digests import digest_of_file
from darkprune.surgery.apply import Cut
from darkprune.surgery.plan_file import parse_plan
from darkprune.training.gradual.gradual import GradualPruning, Phase, make_timetable, size_of
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.loop.distributed import Ranks
from darkprune.training.loop.hooks import Hook
from darkprune.training.loop.loop import Trainer
from darkprune.training.recipe.recipe import read_recipe
from darkprune.training.records.log import read_rows
from darkprune.training.settings import GradualSettings, RunSettings, TrainSettings
from darkprune.training.sparsity.sparsity import Sparsity
from tests.assets import open_pair
from tests.training.test_distributed import in_two_processes
from tests.training.test_resume import Trap, die, in_a_child
from tests.training.test_training_commands import FAST, call
from tests.training.tiny import CFG, fresh_network, make_trainer, tiny_graph, write_images

STAGES = (Phase(1, 3, 0.8), Phase(3, 5, 0.6))
#: the tiny network has 10 to 16 channels a layer
DYNAMIC = TrainSettings(sparsity="dynamic", s=0.01, switch=0.1)
PRUNE = GradualSettings(prune_to=0.6, prune_min_channels=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), 10)


def trainer(
    data: Path,
    folder: Path,
    *,
    settings: RunSettings | None = None,
    hook: Hook | None = None,
    ranks: Ranks | None = None,
    sparse: bool = True,
    resume: bool = False,
) -> Trainer:
    graph = tiny_graph()
    network = fresh_network(graph)
    hooks: list[Hook] = [hook] if hook else []
    if sparse:
        hooks.append(Sparsity(network, DYNAMIC, read_recipe(graph, 10, DYNAMIC), RunFolder(folder, "tiny")))
    hooks.append(GradualPruning(network, PRUNE, STAGES, ranks or Ranks()))
    settings = settings or RunSettings(ema=0.9)
    return make_trainer(
        graph, data, folder, network=network, hooks=tuple(hooks), settings=settings, ranks=ranks, validate=True,
        resume=resume,
    )  # fmt: skip


class Watch(Hook):
    """Keeps what the network was before and behind a cut, and stops there."""

    name = "watch"

    def __init__(self, run: list[Trainer], at: int) -> None:
        self.run = run
        self.at = at
        self.plan = ""
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}
        self.cut: Cut | None = None

    def _now(self) -> dict[str, Any]:
        stepper = self.run[0].stepper
        moments = {
            name: {key: value.clone() for key, value in stepper.optimizer.inner.state[tensor].items()}
            for name, tensor in stepper.optimizer.parameters.items()
        }
        network = Network(stepper.network.graph)
        network.load_state_dict(stepper.network.state_dict())
        return {
            "network": network.eval(),
            "moments": moments,
            "ema": {name: value.clone() for name, value in stepper.ema.values.items()},
            "spared": [mask.clone() for mask in stepper.hooks[1]._spared or []],  # type: ignore[attr-defined]
        }

    def cut_after(self, step: int) -> Cut | None:
        if step == self.at:
            pruning = self.run[0].hooks[-1]
            assert isinstance(pruning, GradualPruning)
            assert pruning._plan is not None
            self.plan = pruning._plan.dumps()
            self.before = self._now()
        return None

    def use(self, network: Network, cut: Cut | None = None) -> None:
        self.cut = cut if self.cut is None else self.cut

    def after_epoch(self, epoch: int) -> None:
        if self.cut is not None and not self.after:
            self.after = self._now()


def watched(data: Path, folder: Path, settings: RunSettings) -> Watch:
    run: list[Trainer] = []
    watch = Watch(run, 4)
    # ten images in batches of 8: an epoch has 2 steps, and step 4 ends one
    graph = tiny_graph()
    network = fresh_network(graph)
    sparse = Sparsity(network, DYNAMIC, read_recipe(graph, 10, DYNAMIC))
    pruning = GradualPruning(network, PRUNE, (Phase(1, 4, 0.6),), Ranks())
    run.append(make_trainer(graph, data, folder, network=network, hooks=(watch, sparse, pruning), settings=settings))
    run[0].run()
    assert watch.cut is not None
    return watch


@pytest.mark.parametrize("adam", [False, True])
def test_a_cut_is_that_of_prune_and_keeps_the_function(data: Path, tmp_path: Path, adam: bool) -> None:
    watch = watched(data, tmp_path / "run", RunSettings(iterations=4, ema=0.9, adam=adam))
    before, after = watch.before["network"], watch.after["network"]
    pair = (tmp_path / "tiny.cfg", tmp_path / "tiny.weights")
    pair[0].write_text(CFG)
    with pair[1].open("wb") as file:
        save_weights(before, file, Header(seen=32))
    cfg, weights = map(digest_of_file, pair)
    plan = replace(parse_plan(watch.plan), cfg_sha256=cfg, weights_sha256=weights)
    (tmp_path / "plan.json").write_text(plan.dumps())
    assert call(prune, *pair, "--plan", tmp_path / "plan.json", "-o", tmp_path / "slim") == 0
    slim = tmp_path / "slim" / "tiny.weights"
    assert slim.read_bytes() == (tmp_path / "run" / "tiny_last.weights").read_bytes()
    assert (tmp_path / "slim" / "tiny.cfg").read_bytes() == (tmp_path / "run" / "tiny.cfg").read_bytes()
    # the chosen channels had faded: away from padded borders the network computes what it did
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        (wide,), (thin,) = before(images).heads.values(), after(images).heads.values()
    assert after.graph.macs < 0.7 * before.graph.macs
    torch.testing.assert_close(thin[..., 2:6, 2:6], wide[..., 2:6, 2:6], rtol=1e-4, atol=1e-5)
    assert float((thin - wide).abs().max()) < 0.2 * float(wide.abs().max())


@pytest.mark.parametrize("adam", [False, True])
def test_moments_average_and_selection_lose_the_same_channels(data: Path, tmp_path: Path, adam: bool) -> None:
    watch = watched(data, tmp_path / "run", RunSettings(iterations=4, ema=0.9, adam=adam))
    cut = watch.cut
    assert cut is not None
    graph = watch.before["network"].graph
    kinds = {"exp_avg", "exp_avg_sq", "step"} if adam else {"momentum_buffer"}
    for layer in graph:
        if layer.name != "convolutional":
            continue
        out = cut.kept(cut.channels.of_layer[layer.index])
        inputs = cut.kept(cut.channels.inputs(layer)) if layer.index else np.arange(3)
        for blob in layer.blobs:
            name = f"layers.{layer.index}.{blob.name}"
            place = np.ix_(out, inputs) if blob.name == "weights" else out
            if blob.trained:
                old, new = watch.before["moments"][name], watch.after["moments"][name]
                assert set(old) == set(new) == kinds
                for kind in kinds:
                    assert torch.equal(new[kind], old[kind] if kind == "step" else old[kind][place]), name
            if blob.name in ("weights", "scales", "rolling_variance"):
                assert torch.equal(watch.after["ema"][name], watch.before["ema"][name][place]), name
    spared = {0: 0, 1: 1, 2: 2, 4: 3}  # layer -> its place among the sparse ones
    for layer_index, place_of in spared.items():
        kept = cut.kept(cut.channels.of_layer[layer_index])
        assert torch.equal(watch.after["spared"][place_of], watch.before["spared"][place_of][kept])
    assert any(len(mask) for mask in watch.after["spared"])


@pytest.fixture(scope="module", params=[False, True], ids=["sgd", "adam"])
def whole(
    data: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, RunSettings]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    settings = RunSettings(ema=0.9, adam=request.param, multi_scale=1.5)
    trainer(data, folder, hook=Trap(0, die), settings=settings).run()
    return folder, settings


@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_run_goes_on_across_cuts(data: Path, whole: tuple[Path, RunSettings], tmp_path: Path, step: int) -> None:
    folder, (uninterrupted, settings) = tmp_path / "run", whole
    killed = in_a_child(lambda: trainer(data, folder, hook=Trap(step, die), settings=settings).run())
    assert killed == signal.SIGKILL
    assert RunFolder(folder, "tiny").read_state()["step"] == {3: 2, 4: 3, 6: 5}[step]
    outcome = trainer(data, folder, hook=Trap(0, die), settings=settings, resume=True).run()
    assert outcome.steps == 8
    for name in ("tiny_final.weights", "tiny_last.weights", "tiny_best.weights", "tiny.cfg"):
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    rows = [
        [{k: v for k, v in row.items() if k not in ("images_per_s", "wait")} for row in read_rows(f / "log.csv")]
        for f in (folder, uninterrupted)
    ]
    assert rows[0] == rows[1]


def test_what_is_written_fits_together_and_shrinks(whole: tuple[Path, RunSettings]) -> None:
    folder = whole[0]
    for kind in ("last", "best", "final"):
        with open_pair(folder / "tiny.cfg", folder / f"tiny_{kind}.weights") as weights:
            graph = weights.graph
    first = tiny_graph()
    assert graph.macs < 0.65 * first.macs
    sizes = [(float(row["macs"]), float(row["params"])) for row in read_rows(folder / "log.csv")]
    assert [sizes[0], sizes[-1]] == [(first.macs, first.params), (graph.macs, graph.params)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    state = RunFolder(folder, "tiny").read_state()
    assert [cut["step"] for cut in state["hooks"]["pruning"]["cuts"]] == [3, 5]


def test_weights_left_by_a_kill_do_not_stay_beside_another_cfg(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    in_a_child(lambda: trainer(data, folder, hook=Trap(4, die)).run())
    # as if it had been killed behind a measurement after the second cut
    (folder / "tiny_best.weights").write_bytes(b"\0" * 500)
    run = trainer(data, folder, hook=Trap(4, lambda: check_fit(folder)), resume=True)
    run.run()


def check_fit(folder: Path) -> None:
    assert not (folder / "tiny_best.weights").exists()
    open_pair(folder / "tiny.cfg", folder / "tiny_last.weights").__exit__()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
def test_two_processes_cut_the_same(data: Path, tmp_path: Path) -> None:
    settings = RunSettings(iterations=6, subdivisions=2)
    alone = trainer(data, tmp_path / "alone", settings=settings, sparse=False)
    alone.run()

    def share(ranks: Ranks) -> None:
        run = trainer(data, tmp_path / "shared", settings=settings, ranks=ranks, sparse=False)
        run.run()
        torch.save(run.network.state_dict(), tmp_path / f"{ranks.rank}.pt")

    in_two_processes(share)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, tensor in alone.network.state_dict().items():
        if "rolling" not in name:
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("of", ["macs", "params", "channels"])
@pytest.mark.parametrize("criterion", ["bn_gamma", "l2"])
def test_every_quantity_and_criterion_comes_close_to_its_goal(
    data: Path, tmp_path: Path, of: str, criterion: str
) -> None:
    graph = tiny_graph()
    network = fresh_network(graph)
    settings = replace(PRUNE, prune_of=of, prune_criterion=criterion)
    hook = GradualPruning(network, settings, (Phase(0, 1, 0.6),), Ranks())
    run = make_trainer(graph, data, tmp_path, network=network, hooks=(hook,), settings=RunSettings(iterations=1))
    run.run()
    left = size_of(run.network.graph, of) / size_of(graph, of)
    assert abs(left - 0.6) < 0.06, left  # one channel of this network is some percent
    assert "pruned" not in hook.status()


def test_a_goal_below_the_floors_is_refused_before_training() -> None:
    network = fresh_network(tiny_graph())
    with pytest.raises(PlanError, match=r"--prune-to 0\.1 cannot be met"):
        GradualPruning(network, GradualSettings(prune_to=0.1), (Phase(0, 4, 0.1),), Ranks())


@given(
    st.floats(0.01, 0.99),
    st.sampled_from(["cubic", "linear"]),
    st.integers(1, 50),
    st.integers(2, 40),
    st.floats(0, 0.9),
    st.floats(0.01, 1),
    st.none() | st.floats(0.01, 3),
)
def test_timetables_rise(
    remaining: float, schedule: str, epoch_steps: int, epochs: int, start: float, length: float, every: float | None
) -> None:
    steps = epoch_steps * epochs
    first, until = start * epochs, min(epochs, (start + length) * epochs)
    settings = GradualSettings(
        prune_to=remaining,
        prune_from=first,
        prune_until=until,
        prune_every=every,
        prune_schedule=schedule,  # type: ignore[arg-type]
    )
    if round(until * epoch_steps) <= round(first * epoch_steps):
        with pytest.raises(UsageError, match="must be after"):
            make_timetable(settings, epoch_steps, steps)
        return
    stages = make_timetable(settings, epoch_steps, steps)
    assert stages[0].marked == round(first * epoch_steps)
    assert stages[-1].cut == round(until * epoch_steps) <= steps
    assert stages[-1].remaining == remaining
    for before, after in pairwise(stages):
        assert before.cut == after.marked
        assert before.remaining > after.remaining
    for stage in stages:
        assert stage.marked < stage.cut
        assert stage.remaining < 1
    if schedule == "cubic":  # what goes becomes less and less
        shares = [1.0, *(stage.remaining for stage in stages)]
        steps_down = -np.diff(shares)
        assert (np.diff(steps_down) <= 1e-9).all()


def test_a_schedule_as_published() -> None:
    stages = make_timetable(GradualSettings(prune_to=0.5, prune_from=2, prune_until=6, prune_every=1), 10, 100)
    assert [(s.marked, s.cut) for s in stages] == [(20, 30), (30, 40), (40, 50), (50, 60)]
    np.testing.assert_allclose([s.remaining for s in stages], [0.7109375, 0.5625, 0.5078125, 0.5])
    defaults = make_timetable(GradualSettings(prune_to=0.5), 10, 1000)
    assert (defaults[0].marked, defaults[-1].cut, len(defaults)) == (100, 600, 10)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path, 8)
    (tmp_path / "tiny.cfg").write_text(CFG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


GRADUAL = ["--prune-to", "0.7", "--prune-from", "1", "--prune-until", "5", "--prune-every", "2"]


def test_train_and_distill_prune_while_they_learn(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--prune-min-channels", "4", "--keep-every", "2", "--subdivisions", "2"]
    assert call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--json", *GRADUAL, *more, *FAST) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["after"]["macs"] < 0.75 * told["before"]["macs"]
    assert [cut["step"] for cut in told["cuts"]] == [3, 5]
    with NetworkWeights(read_graph(Path(told["cfg"])), Path(told["weights"]["final"])) as weights:
        assert weights.graph.macs == told["after"]["macs"] == told["cuts"][-1]["macs"]
    for step in (2, 4, 6):  # weights that stay have a cfg of their own
        open_pair(place / "run" / f"tiny_{step}.cfg", place / "run" / f"tiny_{step}.weights").__exit__()
    assert call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--resume", *GRADUAL, *more, *FAST) == 0
    assert "MACs" in capsys.readouterr().out
    call(train, "tiny.cfg", "--data", "x.data", "-o", "wide", "--iterations", "1", *FAST)
    pair = ["wide/tiny.cfg", "wide/tiny_final.weights"]
    capsys.readouterr()
    arguments = [*pair, *pair, "--data", "x.data", "-o", "soft", "--json", *GRADUAL, *more, "--lr", "1e-4"]
    assert call(distill, *arguments, *FAST) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["after"]["macs"] < 0.75 * told["before"]["macs"]
    assert told["figures"]["attention"] > 0


def test_frozen_layers_stay_as_they_are(place: Path) -> None:
    words = [*GRADUAL, "--prune-min-channels", "2", "--freeze", "1", "--iterations", "5"]
    call(train, "tiny.cfg", "--data", "x.data", "-o", "run", *words, *FAST)
    with open_pair(place / "run" / "tiny.cfg", place / "run" / "tiny_final.weights") as weights:
        found = weights.read(weights.graph[0], "weights")
    fresh = tensor_of(fresh_network(tiny_graph()), 0, "weights").detach().numpy()
    np.testing.assert_array_equal(found, fresh)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prune-from", "1"], "belongs to --prune-to"),
        (["--prune-to", "2"], "must be above 0 and below 1"),
        (["--prune-to", "0.5", "--prune-every", "0"], "must be above 0"),
        (["--prune-to", "0.5", "--prune-from", "-1"], "must be at least 0"),
        (["--prune-to", "0.5", "--prune-from", "3", "--prune-until", "2"], "must be after"),
        (["--prune-to", "0.5", "--prune-until", "99"], "the run has 8 epochs"),
        (["--prune-to", "0.5", "--prune-exclude", "a"], "separated by commas"),
        (["--prune-to", "0.5", "--prune-exclude", "77"], "--exclude 77"),
        (["--prune-to", "0.001"], "cannot be met"),
    ],
)
def test_wrong_uses_are_one_clear_line(place: Path, words: list[str], message: str) -> None:
    with pytest.raises(DarkpruneError, match=message) as caught:
        call(train, "tiny.cfg", "--data", "x.data", "-o", "run", *words, *FAST)
    assert "\n" not in str(caught.value)


def test_another_timetable_is_another_run(place: Path) -> None:
    words = ["--data", "x.data", "-o", "run", "--prune-min-channels", "4", *FAST]
    call(train, "tiny.cfg", *words, *GRADUAL)
    with pytest.raises(DarkpruneError, match="pruning"):
        call(train, "tiny.cfg", *words, *GRADUAL, "--prune-schedule", "linear", "--resume")
