"""The loop: it learns, says what went wrong, and leaves alone what it was told to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import TrainingError
from darkprune.graph.graph import build_graph
from darkprune.network import Network, NetworkOutput, tensor_of
from darkprune.progress import ProgressEvent, reporting
from darkprune.training.data.batches import Batch, SizeSettings
from darkprune.training.loop import memory
from darkprune.training.loop.memory import advice, is_out_of_memory
from darkprune.training.loop.objective import DetectionObjective
from darkprune.training.loop.step import Stepper
from darkprune.training.losses import Loss
from darkprune.training.recipe.recipe import read_recipe
from darkprune.training.records.log import read_curves, read_rows
from darkprune.training.records.progress import StatusLine
from darkprune.training.settings import RunSettings
from tests.training.tiny import CFG, fresh_network, make_trainer, tiny_graph, write_images


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), 12)


class Poisoned(DetectionObjective):
    """Gives NaN for the second part of the third step."""

    def compute(self, output: NetworkOutput, batch: Batch, seen: int, wanted: NetworkOutput | None) -> Loss:
        found = super().compute(output, batch, seen, wanted)
        return Loss(found.value * float("nan"), found.parts * float("nan")) if seen == 24 else found


def test_it_learns(data: Path, tmp_path: Path) -> None:
    settings = RunSettings(iterations=60, lr=0.02, mosaic=False)
    trainer = make_trainer(tiny_graph(), data, tmp_path / "run", settings=settings, save_every=100, validate=True)
    outcome = trainer.run()
    rows = list(read_rows(tmp_path / "run" / "log.csv"))
    assert len(rows) == 60
    losses = [float(row["loss"]) for row in rows]
    assert np.mean(losses[-5:]) < 0.4 * np.mean(losses[:5])
    assert outcome.best > 0
    assert outcome.images == 480
    steps, values = read_curves(tmp_path / "run" / "log.csv")["map50"]
    assert steps[-1] == 60
    assert max(values) == pytest.approx(outcome.best, rel=1e-5)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"tiny_best.weights", "tiny_last.weights", "tiny_final.weights", "state.pt", "log.csv"} <= names


#: heads behind the tiny network's last map: filters before them, and their sections
HEADS = {
    "Gaussian_yolo": (22, "mask=0,1\nanchors=8,8, 16,14\nclasses=2\nnum=2\niou_loss=mse\nuc_normalizer=0.1"),
    "region": (14, "anchors=1,1, 2,1.75\nclasses=2\nnum=2\ncoords=4\nthresh=.6\nbias_match=1\nrescore=1"),
}


@pytest.mark.parametrize("kind", HEADS)
def test_other_heads_learn_too(kind: str, data: Path, tmp_path: Path) -> None:
    filters, section = HEADS[kind]
    text = CFG[: CFG.index("[yolo]")].replace("filters=14", f"filters={filters}") + f"[{kind}]\n{section}\n"
    settings = RunSettings(iterations=30, lr=0.005, mosaic=False, adam=True, policy="cosine")
    make_trainer(build_graph(parse_cfg(text, "x.cfg")), data, tmp_path, settings=settings, save_every=100).run()
    losses = [float(row["loss"]) for row in read_rows(tmp_path / "log.csv")]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_loss_that_is_no_number_stops_and_names_its_images(data: Path, tmp_path: Path) -> None:
    graph = tiny_graph(mosaic=0)
    trainer = make_trainer(graph, data, tmp_path / "run", objective=Poisoned(graph))
    with pytest.raises(TrainingError, match=r"step 3, part 2 of 2 is not a number") as caught:
        trainer.run()
    plan = trainer.loader.plan
    used = [plan.image_of(position, 12) for position in range(20, 24)]
    assert all(str(trainer.loader.maker.images.paths[index]) in str(caught.value) for index in used)
    assert "\n" not in str(caught.value)
    assert trainer.folder.read_state()["step"] == 2


def test_gradients_that_are_no_numbers_stop_too(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_graph(), data, tmp_path / "run")
    tensor_of(trainer.network, 0, "weights").register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(TrainingError, match="gradients of step 1"):
        trainer.run()


def test_frozen_layers_stay_exactly_as_they_are(data: Path, tmp_path: Path) -> None:
    graph = tiny_graph()
    network = fresh_network(graph)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    recipe = read_recipe(graph, 12, RunSettings(iterations=3, freeze=3))
    make_trainer(graph, data, tmp_path / "run", network=network, recipe=recipe, validate=True).run()
    same = {name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])}
    assert {name for name in before if int(name.split(".")[1]) < 3} == same


def test_frozen_batch_normalisation_keeps_its_statistics(data: Path, tmp_path: Path) -> None:
    graph = tiny_graph()
    network = fresh_network(graph)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    statistics = {name for name, _ in network.named_buffers()}
    settings = RunSettings(iterations=3, frozen_bn=True)
    make_trainer(graph, data, tmp_path / "run", network=network, settings=settings).run()
    same = {name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])}
    assert statistics
    assert same == statistics  # everything else has learnt, γ and β too


def test_parts_are_one_step(data: Path, tmp_path: Path) -> None:
    """Without batch normalisation and dropout it does not matter how a step is divided."""
    text = CFG.replace("batch_normalize=1\n", "").replace("probability=.1", "probability=0")
    graph = build_graph(parse_cfg(text, "tiny.cfg"))
    results = []
    for parts in (1, 4):
        network = fresh_network(graph)
        settings = RunSettings(iterations=3, subdivisions=parts, lr=0.001)
        make_trainer(graph, data, tmp_path / f"run{parts}", network=network, settings=settings).run()
        results.append(network.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=1e-5, atol=1e-6)


def test_unreadable_images_are_counted(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 6)
    (tmp_path / "data" / "images" / "002.png").write_bytes(b"nothing")
    outcome = make_trainer(tiny_graph(), data, tmp_path / "run", settings=RunSettings(iterations=3)).run()
    assert [Path(name).name for name in outcome.unreadable] == ["002.png"]


def test_mixed_precision_on_the_cpu(data: Path, tmp_path: Path) -> None:
    recipe = replace(read_recipe(tiny_graph(), 12, RunSettings(iterations=2)), precision="bf16")
    outcome = make_trainer(tiny_graph(), data, tmp_path / "run", recipe=recipe).run()
    assert np.isfinite(list(outcome.figures.values())).all()


def test_out_of_memory_says_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tiny_graph()
    recipe = read_recipe(graph, 12, RunSettings(batch=16, subdivisions=1))
    stepper = Stepper(network=fresh_network(graph), objective=DetectionObjective(graph), recipe=recipe)
    network, attempt = stepper.network, stepper._forwards_and_backwards
    tried: list[int] = []

    def fits(net: Network, what: object, images: int, *rest: object) -> bool:
        tried.append(images)
        return images <= 4

    real = memory._fits
    assert real(network, attempt, 2, recipe.sizes.largest)
    monkeypatch.setattr(memory, "_fits", fits)
    error = advice(network, attempt, recipe, 1)
    assert tried == [8, 4]
    assert "4 at a time fit: give --subdivisions 4" in str(error)
    assert "32x32 pixels with 16 images" in str(error)
    monkeypatch.setattr(memory, "_fits", lambda *args: False)
    assert "not even one image" in str(advice(network, attempt, recipe, 1))


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_lack_of_memory_in_a_step_becomes_advice(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tiny_graph(), data, tmp_path / "run")

    def short(*args: object) -> Loss:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(trainer.stepper.objective, "compute", short)
    monkeypatch.setattr(memory, "_fits", lambda *args: args[2] == 1)
    with pytest.raises(TrainingError, match="1 at a time fit: give --subdivisions 8"):
        trainer.run()


@pytest.mark.parametrize("section", ["[detection]\nside=2\nclasses=1\ncoords=4\nnum=1\n", ""])
def test_networks_without_a_head_to_train(section: str) -> None:
    text = "[net]\nwidth=8\nheight=8\nchannels=3\n[connected]\noutput=24\nactivation=linear\n" + section
    with pytest.raises(TrainingError):
        DetectionObjective(build_graph(parse_cfg(text, "x.cfg")))


def test_sizes_of_parts_change_together() -> None:
    assert SizeSettings(64, 32, 2.0, 32).largest == (160, 96)


def test_every_step_is_an_event() -> None:
    events: list[ProgressEvent] = []
    speed = {"rate": 0.001, "images_per_s": 4.0, "wait": 0.1}
    with reporting(events.append):
        line = StatusLine(100, 10, 24)
        line.quality = "mAP@0.5 41.20 %"
        line.update(25, {"loss": 3.0, "objectness": 1.0, "matched": 4.0}, speed, ["|γ| small", ""])
        line.update(26, {"loss": 4.0}, speed, [])
    assert [(event.task, event.done, event.total, event.unit) for event in events[:-1]] == [
        ("training", 0, 100, "step"),
        ("training", 24, 100, "step"),
        ("training", 25, 100, "step"),
    ]
    assert events[-2].details == (
        "loss 3  mAP@0.5 41.20 %  |γ| small  4.0 img/s wait 10 %  epoch 2.5  obj 1  rate 0.001"
    )
    assert events[-1].details.startswith("loss 3.1 ")  # smoothed as darknet does


def test_a_run_reports_steps_measurements_and_prints_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[ProgressEvent] = []
    trainer = make_trainer(tiny_graph(), data, tmp_path, settings=RunSettings(iterations=5), validate=True)
    with reporting(events.append):
        trainer.run()
    assert [event.done for event in events if event.details] == [1, 2, 3, 4, 5]
    said = [event.message for event in events if event.message]
    assert [text.split(":")[0] for text in said] == ["step 4", "step 5"]
    assert "mAP@0.5" in events[-2].details
    assert capsys.readouterr() == ("", "")
