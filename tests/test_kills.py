"""Commands that are killed at any moment and given again: their results are those of an undisturbed run."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from darkprune.data.scenes import write_scenes

SECONDS = 15  #: for the kills of one command; at least one is made
SCENES = ["builtin:scenes", "builtin:scenes"]


@dataclass(frozen=True)
class Killed:
    """A command that is killed.

    Attributes:
        words: of the command line; `OUT` is its folder.
        again: words that are added where it is given again after a kill.
        results: files of its folder that must be those of an undisturbed run.
    """

    words: tuple[str, ...]
    again: tuple[str, ...]
    results: tuple[str, ...]


TRAINING = ("--iterations", "4", "--batch", "4", "--subdivisions", "1", "--no-tensorboard", "--workers", "0")
COMMANDS = {
    "prune": Killed(
        ("prune", *SCENES, "--ratio", "0.3", "--force", "-o", "OUT"), ("--overwrite",),
        ("scenes.cfg", "scenes.weights", "plan.json"),
    ),
    "train": Killed(
        ("train", *SCENES, "--data", "scenes.data", "-o", "OUT", *TRAINING, "--save-every", "1"), ("--resume",),
        ("scenes_final.weights",),
    ),
    "compress": Killed(
        ("compress", *SCENES, "--images", "images", "--target-macs", "0.9", "-o", "OUT", "--fixed-input"), (),
        ("scenes.cfg", "scenes.weights"),
    ),
    "compare": Killed(
        ("compare", *SCENES, "--data", "scenes.data", "--methods", "slimming,group", "--budgets", "0.9", "--no-times",
         "-o", "OUT"), (), (),
    ),
}  # fmt: skip


def start(words: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "darkprune", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_ends_as_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = COMMANDS[name]
    write_scenes(tmp_path, 16, 4)
    (tmp_path / "images").symlink_to(tmp_path / "train")

    def words(folder: str) -> tuple[str, ...]:
        return tuple(folder if word == "OUT" else word for word in command.words)

    began = time.monotonic()
    _, errors = (undisturbed := start(words("whole"), tmp_path)).communicate()
    assert undisturbed.returncode == 0, errors.decode()[-2000:]
    duration = time.monotonic() - began
    wanted = digests(tmp_path / "whole", command.results)
    beside = sorted(path.name for path in tmp_path.iterdir())

    draw, ends, number = random.Random(name), time.monotonic() + SECONDS, 0
    while number == 0 or time.monotonic() < ends:
        number += 1
        folder = f"killed{number}"
        process = start(words(folder), tmp_path)
        time.sleep(draw.uniform(0.2, 0.95) * duration)
        process.kill()
        process.wait()
        more = command.again if (tmp_path / folder).exists() else ()
        if "--resume" in more and not (tmp_path / folder / "state.pt").exists():
            more = ("--overwrite",)
        _, errors = (again := start((*words(folder), *more), tmp_path)).communicate()
        assert again.returncode == 0, errors.decode()[-2000:]
        assert digests(tmp_path / folder, command.results) == wanted
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == sorted([*beside, *(f"killed{count + 1}" for count in range(number))]), "leftovers"
        hidden = [path.name for path in (tmp_path / folder).rglob(".*")]
        assert not [path for path in hidden if "partial" in path or path.endswith(".tmp")], "leftovers"
