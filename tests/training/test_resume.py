"""Runs that are killed, interrupted or have no room: what is left, and that they go on as if nothing had been."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from darkprune.darknet import output
from darkprune.errors import OutputError, TrainingError
from darkprune.graph.weights import NetworkWeights
from darkprune.training.loop.checkpoint import FORMAT, RunFolder
from darkprune.training.loop.hooks import Hook
from darkprune.training.loop.loop import Trainer
from darkprune.training.recipe.recipe import read_recipe
from darkprune.training.records.log import read_rows
from darkprune.training.settings import RunSettings, TrainSettings
from darkprune.training.sparsity.sparsity import Sparsity
from tests.training.tiny import fresh_network, make_trainer, tiny_graph, write_images

CHANGES = RunSettings(ema=0.9, multi_scale=1.5)


class Trap(Hook):
    """Does something in the middle of a step."""

    name = "trap"

    def __init__(self, at: int, what: Callable[[], object]) -> None:
        self.at = at
        self.what = what

    def before_step(self, step: int) -> None:
        if step == self.at:
            self.what()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def trainer(data: Path, folder: Path, *, resume: bool = False, hook: Hook | None = None, **more: Any) -> Trainer:
    graph = tiny_graph()
    network = fresh_network(graph)
    settings = TrainSettings(ema=0.9, multi_scale=1.5, sparsity="dynamic", switch=0.3)
    sparse = Sparsity(network, settings, read_recipe(graph, 10, settings), RunFolder(folder, "tiny"))
    hooks = (sparse, *([hook] if hook else []))
    return make_trainer(
        graph, data, folder, network=network, hooks=hooks, settings=CHANGES, resume=resume, validate=True, **more
    )


def in_a_child(action: Callable[[], object]) -> int:
    """Runs something in a copy of this process; returns the signal that ended it."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            action()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), 10)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    trainer(data, folder, hook=Trap(0, die)).run()
    return folder


def kill_while_replacing(number: int) -> Callable[[], object]:
    """Makes the process die when it puts its n-th file in place."""
    count = 0

    def replace(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            die()
        os.rename(source, target)

    return lambda: setattr(output.os, "replace", replace)


def check_same(folder: Path, whole: Path) -> None:
    for kind in ("final", "last", "best"):
        assert (
            RunFolder(folder, "tiny").weights(kind).read_bytes() == RunFolder(whole, "tiny").weights(kind).read_bytes()
        )
    ours, theirs = RunFolder(folder, "tiny").read_state(), RunFolder(whole, "tiny").read_state()
    assert ours["best"] == theirs["best"]
    assert torch.equal(ours["hooks"]["sparsity"]["history"]["counts"], theirs["hooks"]["sparsity"]["history"]["counts"])
    timed = ("images_per_s", "wait")
    rows = [
        [{k: v for k, v in row.items() if k not in timed} for row in read_rows(f / "log.csv")] for f in (folder, whole)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 8


@pytest.mark.parametrize("step", [3, 8])
def test_killed_in_a_step(data: Path, whole: Path, tmp_path: Path, step: int) -> None:
    folder = tmp_path / "run"
    assert in_a_child(lambda: trainer(data, folder, hook=Trap(step, die)).run()) == signal.SIGKILL
    assert RunFolder(folder, "tiny").read_state()["step"] == (step - 1) // 2 * 2
    outcome = trainer(data, folder, resume=True, hook=Trap(0, die)).run()
    assert outcome.steps == 8
    check_same(folder, whole)


@pytest.mark.parametrize("number", [9, 10, 12])
def test_killed_while_files_are_written(data: Path, whole: Path, tmp_path: Path, number: int) -> None:
    folder = tmp_path / "run"

    def run() -> None:
        prepared = trainer(data, folder, hook=Trap(0, die))
        kill_while_replacing(number)()
        prepared.run()

    assert in_a_child(run) == signal.SIGKILL
    state = RunFolder(folder, "tiny").read_state()
    assert state["step"] in (2, 4, 6)
    trainer(data, folder, resume=True, hook=Trap(0, die)).run()
    check_same(folder, whole)


def test_interrupted_after_the_step_it_is_in(data: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ask = Trap(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    outcome = trainer(data, folder, hook=ask).run()
    # the signal is seen when the next step adds up what the processes say
    assert (outcome.steps, outcome.stopped) == (4, True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    trainer(data, folder, resume=True, hook=Trap(0, die)).run()
    check_same(folder, whole)


def test_workers_make_no_difference_to_a_resumed_run(data: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ask = Trap(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    trainer(data, folder, hook=ask, workers=1).run()
    trainer(data, folder, resume=True, hook=Trap(0, die), workers=2).run()
    check_same(folder, whole)


def test_a_signal_to_all_processes_lets_the_step_finish(data: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def signal_all() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    outcome = trainer(data, folder, hook=Trap(3, signal_all), workers=1).run()
    assert outcome.stopped
    assert RunFolder(folder, "tiny").read_state()["step"] == outcome.steps
    trainer(data, folder, resume=True, hook=Trap(0, die)).run()
    check_same(folder, whole)


def test_a_dead_worker_is_one_clear_line(data: Path, tmp_path: Path) -> None:
    def kill_all() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(TrainingError, match="prepares images has died"):
        trainer(data, tmp_path / "run", hook=Trap(3, kill_all), workers=1).run()


def test_weights_are_darknets(whole: Path) -> None:
    with NetworkWeights(tiny_graph(), RunFolder(whole, "tiny").weights("last")) as weights:
        assert weights.file.header.seen == 64
        assert (weights.file.header.major, weights.file.header.minor) == (0, 2)


def test_a_full_disk_leaves_the_last_state(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    run = trainer(data, folder, hook=Trap(0, die))
    write = RunFolder.write_state

    def full(self: RunFolder, state: dict[str, Any]) -> None:
        if state["step"] >= 4:
            monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        write(self, state)

    monkeypatch.setattr(RunFolder, "write_state", full)
    with pytest.raises(OutputError, match="disk is full"):
        run.run()
    assert RunFolder(folder, "tiny").read_state()["step"] == 2
    assert not list(folder.glob(".*partial*"))


def test_pictures_without_room_do_not_end_a_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OutputError("curves.png: the disk is full")

    monkeypatch.setattr("darkprune.training.loop.loop.draw_curves", full)
    run = trainer(data, tmp_path / "run", hook=Trap(0, die))
    assert run.run().steps == 8
    assert run.folder.weights("final").is_file()


def test_a_full_disk_inside_torchs_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path, "x")
    folder.write_state({"step": 1})

    class Full:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "full")

        def flush(self) -> None:
            return None

    class Opened:
        def __init__(self, *args: Any, **keywords: Any) -> None:
            self.real = output.atomic_file(*args, **keywords)

        def __enter__(self) -> Full:
            return Full(self.real.__enter__())

        def __exit__(self, *details: Any) -> bool | None:
            return self.real.__exit__(*details)

    monkeypatch.setattr("darkprune.training.loop.checkpoint.atomic_file", Opened)
    with pytest.raises(OutputError, match="disk is full"):
        folder.write_state({"step": 2, "tensor": torch.zeros(1000)})
    assert folder.read_state()["step"] == 1


class _Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch /tmp/darkprune-was-here",))


@pytest.mark.parametrize("content", ["pickle", "text", "empty", "other", "cut"])
def test_what_is_no_state_is_refused_and_nothing_is_executed(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path, "x")
    if content == "pickle":
        torch.save({"format": FORMAT, "step": _Evil()}, folder.state)
    elif content == "other":
        torch.save({"format": "something"}, folder.state)
    elif content == "cut":
        folder.write_state({"step": 1, "tensor": torch.zeros(1000)})
        folder.state.write_bytes(folder.state.read_bytes()[:500])
    else:
        folder.state.write_bytes(b"" if content == "empty" else b"hello")
    with pytest.raises(TrainingError, match="state"):
        folder.read_state()
    assert not Path("/tmp/darkprune-was-here").exists()


def test_another_run_is_not_taken_up(data: Path, whole: Path, tmp_path: Path) -> None:
    other = make_trainer(tiny_graph(), data, whole, settings=RunSettings(ema=0.9, multi_scale=1.5, lr=0.5), resume=True)
    with pytest.raises(TrainingError, match=r"recipe\.schedule\.rate: 0\.01 → 0\.5"):
        other.run()
    with pytest.raises(TrainingError, match="no run"):
        make_trainer(tiny_graph(), data, tmp_path / "nothing", resume=True).run()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": "darkprune-state/1", "step": 3}, r"another version of darkprune wrote it \(darkprune-state/1;"),
        ({"format": 3}, "is not a training state of darkprune"),
        ([1, 2], "is not a training state of darkprune"),
    ],
)
def test_states_of_other_versions_are_refused_in_one_line(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=message):
        RunFolder(tmp_path, "tiny").read_state()


@pytest.mark.parametrize("part", ["identity", "step", "network", "optimizer", "ema", "hooks", "best"])
@pytest.mark.parametrize("value", [None, "x", {"a": 1}])
def test_states_with_odd_parts_are_refused_in_one_line(
    part: str, value: object, data: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    state = RunFolder(folder, "tiny").read_state()
    assert part in state
    del state[part]
    torch.save(state if value is None else {**state, part: value}, folder / "state.pt")
    with pytest.raises(TrainingError, match=r"is damaged|belongs to a run with other settings"):
        trainer(data, folder, resume=True, hook=Trap(0, die)).run()


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("ema", "steps"), torch.zeros(0, 1)),
        (("ema", "values"), "x"),
        (("best_step",), torch.tensor(float("inf"))),
        (("best",), torch.zeros(3)),
        (("step",), -1),
        (("step",), 1 << 70),
    ],
)
def test_states_with_odd_values_are_refused_in_one_line(
    part: tuple[str, ...], value: object, data: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    state = place = RunFolder(folder, "tiny").read_state()
    for name in part[:-1]:
        place = place[name]
    place[part[-1]] = value
    torch.save(state, folder / "state.pt")
    with pytest.raises(TrainingError, match="is damaged"):
        trainer(data, folder, resume=True, hook=Trap(0, die)).run()
