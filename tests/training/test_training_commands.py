"""`darkprune train` and `darkprune distill` as a user calls them."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import darkprune as dp
from darkprune.cli.compression import distill, train
from darkprune.cli.console import Lines
from darkprune.cli.flags import read_flags
from darkprune.cli.main import main
from darkprune.errors import DarkpruneError
from darkprune.graph.graph import read_graph
from darkprune.graph.partial import write_partial
from darkprune.graph.weights import NetworkWeights
from darkprune.network import tensor_of
from darkprune.progress import without_bars
from darkprune.runs.lock import locked
from darkprune.training.loop.start import Start, open_network
from tests.assets import open_pair
from tests.training.tiny import CFG, write_images

FAST = ["--workers", "0", "--no-tensorboard", "--eval-every", "4", "--save-every", "2"]


def call(module: Any, *words: object) -> int:
    parser = ArgumentParser()
    module.configure(parser)
    with without_bars(Lines()):
        return int(module.run(parser.parse_args([str(word) for word in words])))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path, 8)
    (tmp_path / "tiny.cfg").write_text(CFG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_from_an_empty_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--json", *FAST) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == 8
    assert told["map50"] is not None
    assert told["figures"]["loss"] > 0
    assert set(told["weights"]) == {"last", "best", "final"}
    graph = read_graph(Path(told["cfg"]))
    with NetworkWeights(graph, Path(told["weights"]["final"])) as weights:
        assert weights.file.header.seen == 64
    assert (place / "run" / "tiny.cfg").read_text() == CFG
    assert (place / "run" / "tiny.names").read_text() == "disc\nsquare\n"


def test_a_log_file_shows_where_training_stands(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkprune.cli.console.LINE_SECONDS", 0.0)
    assert main(["train", "tiny.cfg", "--data", "x.data", "-o", "run", *FAST]) == 0
    err = capsys.readouterr().err
    assert "batch normalisation sees 8 images at a time" in err
    assert re.search(r"^training.*: step 4 of 8 \(.*box ", err, re.MULTILINE), err


def test_train_goes_on_where_it_was(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(train, "tiny.cfg", "--data", "x.data", "-o", "run", *FAST)
    with pytest.raises(DarkpruneError, match="not empty"):
        call(train, "tiny.cfg", "--data", "x.data", "-o", "run", *FAST)
    final = (place / "run" / "tiny_final.weights").read_bytes()
    assert call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--resume", *FAST) == 0
    assert (place / "run" / "tiny_final.weights").read_bytes() == final
    with pytest.raises(DarkpruneError, match="other settings"):
        call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--resume", "--lr", "1", *FAST)
    assert call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--overwrite", "--iterations", "2", *FAST) == 0
    assert len((place / "run" / "log.csv").read_text().splitlines()) == 3


def test_sparse_training_then_distillation(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--sparsity", "dynamic", "--s", "0.01", "--switch", "0.25", "--ratio", "0.5"]
    assert call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--iterations", "4", *words, *FAST) == 0
    assert (place / "run" / "gamma.npz").is_file()
    pair = ["run/tiny.cfg", "run/tiny_final.weights"]
    capsys.readouterr()
    arguments = [*pair, *pair, "--data", "x.data", "--iterations", "3", "--lr", "1e-4", "--json", *FAST]
    assert call(distill, *arguments, "-o", "soft") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["figures"]) >= {"attention", "soft_class", "soft_box", "hard"}
    # a student that equals its teacher but for its training mode has little to learn from it
    assert call(distill, *arguments, "-o", "bare", "--unlabelled", "images", "--preset", "chu2022") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["figures"]) == {"loss", "attention", "soft_class", "soft_box"}
    assert told["map50"] is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere.data"], "nowhere.data"),
        (["--data", "x.data", "--s", "0.1"], "--sparsity"),
        (["--data", "x.data", "--sparsity", "constant", "--s", "-1"], "must be at least 0"),
        (["--data", "x.data", "--iterations", "0"], "must be at least 1"),
        (["--data", "x.data", "--batch", "7", "--subdivisions", "9"], "no image"),
        (["--data", "x.data", "--ema", "1.5"], "--ema"),
        (["--data", "x.data", "--freeze", "99"], "--freeze"),
        (["--data", "x.data", "--device", "nonsense"], "--device"),
        (["--data", "x.data", "--precision", "fp16"], "GPU"),
        (["--data", "x.data", "--size", "bad"], "--size"),
        (["--data", "x.data", "--seed", "-1"], "--seed"),
        (["--data", "x.data", "--resume"], "resume from"),
        (["--data", "x.data", "--resume", "--overwrite"], "one of them"),
    ],
)
def test_wrong_uses_are_one_clear_line(place: Path, words: list[str], message: str) -> None:
    with pytest.raises(DarkpruneError, match=message) as caught:
        call(train, "tiny.cfg", *words, "-o", "run", *FAST)
    assert "\n" not in str(caught.value)


def test_an_earlier_run_is_only_replaced_by_one_that_starts(place: Path) -> None:
    call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--iterations", "2", *FAST)
    state = (place / "run" / "state.pt").read_bytes()
    with pytest.raises(DarkpruneError, match="nowhere"):
        call(train, "tiny.cfg", "--data", "nowhere.data", "-o", "run", "--overwrite", *FAST)
    assert (place / "run" / "state.pt").read_bytes() == state
    with locked(place / "run"), pytest.raises(DarkpruneError, match="another darkprune is at work"):
        call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--overwrite", *FAST)
    assert (place / "run" / "state.pt").read_bytes() == state
    assert call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--overwrite", "--iterations", "1", *FAST) == 0


def test_names_must_suit_the_head(place: Path) -> None:
    (place / "x.names").write_text("disc\nsquare\nstar\n")
    with pytest.raises(DarkpruneError, match=r"holds 3 names.*the network's head has 2 classes"):
        call(train, "tiny.cfg", "--data", "x.data", "-o", "run", *FAST)


def test_wrong_labels_are_named_before_training(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "images" / "000.txt").write_text("0 0.5 0.5 0.2 0.2\n9 0.5 0.5 0.2 0.2\nnonsense\n")
    (place / "images" / "001.txt").unlink()
    with pytest.raises(DarkpruneError, match="--strict stops at any"):
        call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--strict", *FAST)
    assert call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--iterations", "1", *FAST) == 0
    told = capsys.readouterr().err
    assert "000.txt:2" in told
    assert "labels of 1 of 8 images are missing" in told


def test_images_that_are_not_there(place: Path) -> None:
    for path in (place / "images").glob("*.png"):
        path.unlink()
    with pytest.raises(DarkpruneError, match="not one of its 8 images"):
        call(train, "tiny.cfg", "--data", "x.data", "-o", "run", *FAST)


def test_a_list_alone_is_no_validation_set(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(train, "tiny.cfg", "--data", "train.txt", "-o", "run", "--iterations", "1", "--json", *FAST) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["map50"] is None
    assert "no validation" in told.err


def test_weights_with_holes_are_refused(place: Path) -> None:
    call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--iterations", "1", *FAST)
    weights = place / "run" / "tiny_final.weights"
    content = bytearray(weights.read_bytes())
    content[100:104] = b"\x00\x00\xc0\x7f"
    (place / "bad.weights").write_bytes(content)
    with pytest.raises(DarkpruneError, match="NaN"):
        call(train, "tiny.cfg", "bad.weights", "--data", "x.data", "-o", "again", *FAST)


def test_distil_needs_matching_networks(place: Path) -> None:
    call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--iterations", "1", *FAST)
    pair = ["run/tiny.cfg", "run/tiny_final.weights"]
    with pytest.raises(DarkpruneError, match="what to train on"):
        call(distill, *pair, *pair, "-o", "soft", *FAST)
    with pytest.raises(DarkpruneError, match="no layer 99"):
        call(distill, *pair, *pair, "--data", "x.data", "-o", "soft", "--taps", "99:1", *FAST)
    with pytest.raises(DarkpruneError, match="temperature"):
        call(distill, *pair, *pair, "--data", "x.data", "-o", "soft", "--temperature", "0", *FAST)


def test_a_backbone_is_the_first_layers(place: Path) -> None:
    call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--iterations", "1", *FAST)
    whole = (place / "run" / "tiny_final.weights").read_bytes()
    floats = 4 * 12 + 12 * 3 * 9 + 4 * 10 + 10 * 12  # layers 0 and 1
    (place / "tiny.conv.2").write_bytes(whole[: 20 + 4 * floats])
    graph = read_graph(place / "tiny.cfg")
    network = open_network(graph, Start(backbone=place / "tiny.conv.2", seed=5), torch.device("cpu"))
    trained = open_network(graph, Start(weights=place / "run" / "tiny_final.weights"), torch.device("cpu"))
    same = [
        torch.equal(tensor_of(network, layer, "weights"), tensor_of(trained, layer, "weights")) for layer in (0, 1, 2)
    ]
    assert same == [True, True, False]
    assert (
        call(train, "tiny.cfg", "--backbone", "tiny.conv.2", "--data", "x.data", "-o", "b", "--iterations", "1", *FAST)
        == 0
    )
    (place / "cut.conv").write_bytes(whole[: 20 + 4 * floats - 40])
    with pytest.raises(DarkpruneError, match="end inside layer 1"):
        call(train, "tiny.cfg", "--backbone", "cut.conv", "--data", "x.data", "-o", "c", *FAST)


def test_the_api_trains_and_distils(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[dp.ProgressEvent] = []
    quick = {"workers": 0, "no_tensorboard": True, "iterations": 3}
    wide = dp.train(dp.load("tiny.cfg"), "x.data", "run", dp.TrainSettings(**quick), progress=events.append)
    assert (wide.steps, wide.stopped, wide.measure) == (3, False, "map50")
    assert wide.map50 == wide.measured
    assert wide.to_json()["map50"] == wide.map50
    assert max(event.done for event in events if event.task == "training") == 3
    pair = dp.load(wide.cfg, wide.weights["final"])
    soft = dp.distill(pair, pair, "soft", dp.DistillSettings(**quick, unlabelled="images", data="x.data"))
    assert set(soft.figures) == {"loss", "attention", "soft_class", "soft_box"}
    assert soft.map50 is not None
    cut = dp.prune(pair, dp.PruneSettings(ratio=0.3, criterion="l2", min_channels=2))  # not saved: the plan comes along
    cut_soft = dp.distill(pair, cut, "cut", dp.DistillSettings(**quick, data="x.data", preset="features", taps="4:1"))
    assert cut_soft.before.macs == cut.after.macs < wide.after.macs
    assert dp.train(cut, "x.data", "tuned", dp.TrainSettings(**quick)).before.macs == cut.after.macs
    assert capfd.readouterr() == ("", "")  # pytest's streams are no terminal


def test_flags_are_the_settings(place: Path) -> None:
    parser = ArgumentParser()
    train.configure(parser)
    words = "tiny.cfg --data x.data -o run --epochs 2.5 --no-adam --prune-to 0.5 --prune-exclude 1,2 --sparsity dynamic"
    args = parser.parse_args(words.split())
    assert read_flags(dp.TrainSettings, args) == dp.TrainSettings(
        epochs=2.5, adam=False, prune_to=0.5, prune_exclude=(1, 2), sparsity="dynamic"
    )


def test_images_at_a_time_are_said(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cfg's two parts of four become one of eight; where memory is short it is more parts, and a resumed run's."""
    words = ["tiny.cfg", "--data", "x.data", "-o", "run", "--iterations", "3", *FAST]
    assert call(train, *words) == 0
    assert "batch 8, 8 images at a time" in capsys.readouterr().out
    monkeypatch.setattr("darkprune.training.loop.memory.free_memory", lambda device: 1_400_000)
    assert call(train, *words, "--overwrite", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["part"] == 4
    assert "4 images at a time instead of 8: memory is short" in told.err
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert call(train, *words, "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["part"] == 4
    assert call(train, *words, "--overwrite", "--subdivisions", "8", "--no-mosaic", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["part"] == 1
    assert "warning" not in told.err  # asked for


def test_heads_are_rewritten_for_other_classes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network of two classes becomes one of three; all layers but the head's convolution start from its weights."""
    call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--iterations", "1", *FAST)
    (place / "x.names").write_text("disc\nsquare\nstar\n")
    with pytest.raises(DarkpruneError, match="train --classes 3 rewrites the heads"):
        call(train, "tiny.cfg", "--data", "x.data", "-o", "new", *FAST)
    pair = ["run/tiny.cfg", "run/tiny_final.weights"]
    words = ["--data", "x.data", "-o", "new", "--classes", "3", "--iterations", "1", "--lr", "1e-9", *FAST]
    assert call(train, *pair, *words) == 0
    assert "is for 2 classes; layers 6 before the heads start fresh" in capsys.readouterr().err
    assert (place / "new" / "tiny.cfg").read_text() == CFG.replace("classes=2", "classes=3").replace(
        "filters=14", "filters=16"
    )
    with (
        open_pair(place / "run" / "tiny.cfg", place / "run" / "tiny_final.weights") as before,
        open_pair(place / "new" / "tiny.cfg", place / "new" / "tiny_final.weights") as after,
    ):
        for layer in after.graph.layers[:5]:
            for name in {"weights", "scales", "biases"} & {blob.name for blob in layer.stored}:
                np.testing.assert_allclose(after.read(layer, name), before.read(layer, name), atol=1e-5)


def test_weights_of_other_classes_or_of_the_first_layers_are_taken_over(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cfg is for other classes already: WEIGHTS are recognised by their size, whole or partial."""
    call(train, "tiny.cfg", "--data", "x.data", "-o", "run", "--iterations", "1", *FAST)
    (place / "x.names").write_text("disc\nsquare\nstar\n")
    (place / "new.cfg").write_text(CFG.replace("classes=2", "classes=3").replace("filters=14", "filters=16"))
    whole = place / "run" / "tiny_final.weights"
    with open_pair(place / "tiny.cfg", whole) as weights, (place / "tiny.conv.2").open("wb") as file:
        write_partial(weights, file, 2)
    words = ["--data", "x.data", "--iterations", "1", "--lr", "1e-9", *FAST]
    capsys.readouterr()
    assert call(train, "new.cfg", whole, "-o", "a", *words) == 0
    assert "is for 2 classes; layers 6 before the heads start fresh, all others" in capsys.readouterr().err
    assert call(train, "new.cfg", "tiny.conv.2", "-o", "b", *words) == 0
    assert "tiny.conv.2: layers 0 to 1 are taken over, layers 2 to 7 start fresh" in capsys.readouterr().err
    with open_pair(place / "tiny.cfg", whole) as before:
        for run, same in (("a", [0, 1, 2, 3, 4]), ("b", [0, 1])):
            with open_pair(place / run / "new.cfg", place / run / "new_final.weights") as after:
                for index in range(5):
                    layer = after.graph[index]
                    if layer.stored:
                        old, new = before.read(layer, "weights"), after.read(layer, "weights")
                        assert np.allclose(old, new, atol=1e-5) == (index in same)
    (place / "odd.weights").write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(DarkpruneError, match=r"odd.weights: .* bytes, but new.cfg needs"):
        call(train, "new.cfg", "odd.weights", "-o", "c", *words)
