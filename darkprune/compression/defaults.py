"""What stages there are, and their settings where the user gives none."""

from __future__ import annotations

import math
from collections.abc import Mapping

from darkprune.runs.stages import Source

#: value of a flag: a switch, text, texts of a flag that is repeated, or something that is read
Value = str | bool | tuple[str, ...] | Source

#: stages in their order, and the command whose flags are their settings
COMMANDS = {
    "sparse": "train",
    "prune": "prune",
    "recover": "prune",
    "distill": "distill",
    "finetune": "train",
    "evaluate": "eval",
    "export": "export",
}
STAGES = tuple(COMMANDS)
#: flags of `prune` that say how much; one of them is given
HOW_MUCH = ("ratio", "ratios", "preset", "target-params", "target-macs", "target-size")
#: flags that exclude each other: what the user sets takes the place of a default
EITHER = (
    ("iterations", "epochs", "sparsity-preset"),
    HOW_MUCH,
    *((name, "sparsity-preset") for name in ("sparsity", "s", "batch", "lr", "policy")),
)
#: flags that do not change a result
HOW = ("device", "workers", "no-cache", "save-every", "keep-every", "no-tensorboard")

#: of training that starts from a good checkpoint: darknet's own schedules are made for fresh weights
RECIPE: Mapping[str, Value] = {"batch": "16", "adam": True, "lr": "0.001", "policy": "cosine", "burn-in": "50"}
BATCH = 16
SPARSE_EPOCHS, TUNE_EPOCHS, UNLABELLED_EPOCHS = 40, 100, 40
#: without labels there is nothing but the teacher to hold the student to
UNLABELLED_RATE = "0.0005"
#: images below which nothing is learnt from the teacher alone unless a setting says so: 260 made a network worse
FEWEST_UNLABELLED = 1000
FEWEST_STEPS, MOST_STEPS = 500, 20_000


def steps_for(epochs: int, images: int) -> str:
    """Returns the steps of so many passes over so many images, within bounds."""
    return str(min(MOST_STEPS, max(FEWEST_STEPS, epochs * math.ceil(images / BATCH))))
