"""An interrupted refit goes on where it stopped, and ends with the same bytes as one that was not interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import write_images

from darkprune.api.cliff import CliffSettings, cliff
from darkprune.api.pair import load
from darkprune.api.prune import PruneSettings, prune
from darkprune.cli import console
from darkprune.cli.main import main
from darkprune.errors import OutputError
from darkprune.graph.weights import NetworkWeights
from darkprune.progress import Progress, ProgressEvent
from darkprune.refit.solved_layers import SolvedLayers


class Stop:
    """Stops at some layer of a refit, as Ctrl-C does, and keeps the messages."""

    def __init__(self, layer: int | None = None) -> None:
        self.layer = layer
        self.messages: list[str] = []

    def __call__(self, event: ProgressEvent) -> None:
        if event.message:
            self.messages.append(event.message)
        if event.task == "refitting" and event.done == self.layer:
            raise KeyboardInterrupt

    @property
    def continued(self) -> bool:
        return any("continues at layer" in message for message in self.messages)


@pytest.fixture
def settings(images: Path) -> PruneSettings:
    return PruneSettings(ratio=0.3, criterion="l1", images=str(images), recover="lsq", min_channels=2)


def run(weights: NetworkWeights, output: Path, settings: PruneSettings, progress: Progress) -> bytes:
    """Prunes and returns the slim weights."""
    pair = load(weights.graph.cfg.source, weights.path)
    prune(pair, settings, output=output, progress=progress).close()
    return (output / "net.weights").read_bytes()


@pytest.fixture
def undisturbed(weights: NetworkWeights, settings: PruneSettings, tmp_path: Path) -> bytes:
    return run(weights, tmp_path / "undisturbed", settings, Stop())


def interrupt(weights: NetworkWeights, output: Path, settings: PruneSettings, layer: int = 7) -> Path:
    """Prunes, interrupted before a layer, and returns the folder of the layers that are kept."""
    with pytest.raises(KeyboardInterrupt, match=r"refitted layers are kept in slim.refit: the same command goes on"):
        run(weights, output, settings, Stop(layer))
    assert not output.exists()
    return output.with_name(output.name + ".refit")


@pytest.mark.parametrize("how", ["lsq", "scale"])
def test_the_same_command_goes_on(
    weights: NetworkWeights, settings: PruneSettings, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, recover=how)
    undisturbed = run(weights, tmp_path / "undisturbed", settings, Stop())
    kept = interrupt(weights, tmp_path / "slim", settings)
    assert len(list(kept.glob("layer-*"))) == 4
    solved: list[int] = []
    keep = SolvedLayers.keep

    def note(self: SolvedLayers, layer: int, values: bytes) -> None:
        solved.append(layer)
        keep(self, layer, values)

    monkeypatch.setattr(SolvedLayers, "keep", note)
    stop = Stop()
    assert run(weights, tmp_path / "slim", settings, stop) == undisturbed
    assert "the refit continues at layer 7 of 11" in stop.messages
    assert solved == [7, 9]
    assert not kept.exists()
    assert sorted(path.name for path in tmp_path.glob("*.refit")) == []


def test_it_may_be_interrupted_again_and_again(
    weights: NetworkWeights, settings: PruneSettings, undisturbed: bytes, tmp_path: Path
) -> None:
    for layer in (2, 4, 10):
        interrupt(weights, tmp_path / "slim", settings, layer)
    assert run(weights, tmp_path / "slim", settings, Stop()) == undisturbed


def test_a_damaged_layer_is_solved_again(
    weights: NetworkWeights, settings: PruneSettings, undisturbed: bytes, tmp_path: Path
) -> None:
    kept = interrupt(weights, tmp_path / "slim", settings)
    first, second = sorted(kept.glob("layer-*"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-8] + b"12345678")
    assert run(weights, tmp_path / "slim", settings, Stop()) == undisturbed


@pytest.mark.parametrize(
    "change",
    [{"ratio": 0.31}, {"recover": "scale"}, {"compensate": "carrier"}, {}],
    ids=["plan", "method", "compensation", "images"],
)
def test_what_decides_the_result_must_be_the_same(
    weights: NetworkWeights, settings: PruneSettings, images: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    interrupt(weights, tmp_path / "slim", settings)
    if not change:  # other images under the same names, of the same sizes in bytes
        others = [path.read_bytes() for path in write_images(tmp_path / "others", 32, size=24, seed=9).iterdir()]
        for path, content in zip(sorted(images.iterdir()), others, strict=True):
            size = path.stat().st_size
            assert len(content) <= size
            path.write_bytes(content.ljust(size, b"\0"))
    changed, stop = replace(settings, **change), Stop()
    found = run(weights, tmp_path / "slim", changed, stop)
    assert not stop.continued
    assert found == run(weights, tmp_path / "fresh", changed, Stop())
    assert not list(tmp_path.glob("*.refit"))


def test_a_folder_of_the_users_is_left_alone(weights: NetworkWeights, settings: PruneSettings, tmp_path: Path) -> None:
    mine = tmp_path / "slim.refit"
    mine.mkdir()
    (mine / "layer-0001").write_text("mine")
    with pytest.raises(OutputError, match=r"slim\.refit: is not of an interrupted refit"):
        run(weights, tmp_path / "slim", settings, Stop())
    assert (mine / "layer-0001").read_text() == "mine"
    (mine / "layer-0001").unlink()
    (mine / "record.json").write_text("mine")
    with pytest.raises(OutputError, match=r"slim\.refit: is not of an interrupted refit"):
        run(weights, tmp_path / "slim", settings, Stop())
    (mine / "record.json").unlink()
    kept = interrupt(weights, tmp_path / "slim", settings)
    (kept / "notes.txt").write_text("mine")
    (kept / ".layer-0002.partial-deadbeef").write_text("")
    run(weights, tmp_path / "slim", settings, Stop())
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]


def test_nothing_is_left_where_nothing_was_solved(
    weights: NetworkWeights, settings: PruneSettings, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        run(weights, tmp_path / "slim", settings, Stop(0))
    assert not list(tmp_path.glob("slim*"))


def test_a_sweep_goes_on_within_a_refit(weights: NetworkWeights, images: Path, tmp_path: Path) -> None:
    settings = CliffSettings(
        images=str(images), ratios=(0.1, 0.3), criterion="l1", recover="lsq", runner="torch", min_channels=2
    )
    pair = load(weights.graph.cfg.source, weights.path)
    expected = cliff(pair, tmp_path / "undisturbed", settings, progress=Stop())
    with pytest.raises(KeyboardInterrupt):
        cliff(pair, tmp_path / "sweep", settings, progress=Stop(7))
    stop = Stop()
    assert cliff(pair, tmp_path / "sweep", settings, progress=stop).sweep == expected.sweep
    assert stop.continued
    assert not list((tmp_path / "sweep").glob("*.refit"))


def test_a_pipe_gets_a_line_now_and_then(
    weights: NetworkWeights,
    settings: PruneSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair = [weights.graph.cfg.source, str(weights.path), "--ratio", "0.3", "--min-channels", "2"]
    command = ["prune", *pair, "--images", str(settings.images), "--recover", "lsq", "-o"]
    assert main([*command, str(tmp_path / "quiet")]) == 0
    assert "refitting" not in capsys.readouterr().err
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    assert main([*command, str(tmp_path / "slim")]) == 0
    assert "refitting: layer 3 of 11\n" in capsys.readouterr().err


def test_only_the_refit_s_own_files_are_removed(
    weights: NetworkWeights, settings: PruneSettings, tmp_path: Path, undisturbed: bytes
) -> None:
    kept = interrupt(weights, tmp_path / "slim", settings)
    (kept / "layer-notes.txt").write_text("mine")
    (kept / "layer-0003.bak").mkdir()
    (kept / ".layer-0003.partial-deadbeef").write_text("half")
    assert run(weights, tmp_path / "slim", settings, Stop()) == undisturbed
    assert sorted(path.name for path in kept.iterdir()) == ["layer-0003.bak", "layer-notes.txt"]
