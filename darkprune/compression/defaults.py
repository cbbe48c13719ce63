"""The stages of a run, and their settings where the user gives none."""

from __future__ import annotations

import math
from collections.abc import Mapping

#: in their order
STAGES = ("sparse", "prune", "recover", "factorize", "distill", "finetune", "evaluate", "verify", "export")
#: settings of `prune` that say how much goes; one of them is given
AMOUNTS = ("ratio", "ratios", "preset", "target_params", "target_macs", "target_size", "target_latency")
#: settings that exclude each other: what the user sets takes the place of a default
ALTERNATIVES = (
    ("iterations", "epochs", "sparsity_preset"),
    AMOUNTS,
    *((name, "sparsity_preset") for name in ("sparsity", "s", "batch", "lr", "policy", "adam", "burn_in")),
)
#: settings that do not change a result
WITHOUT_EFFECT = (
    "device", "workers", "no_cache", "jobs", "save_every", "keep_every", "no_tensorboard", "resume", "overwrite",
    "force",
)  # fmt: skip

BATCH = 16
#: of training that starts from a good checkpoint: darknet's own schedules are made for fresh weights
RECIPE: Mapping[str, object] = {"batch": BATCH, "adam": True, "lr": 0.001, "policy": "cosine", "burn_in": 50}
SPARSE_EPOCHS, TUNE_EPOCHS, UNLABELLED_EPOCHS = 40, 100, 40
#: without labels there is nothing but the teacher to hold the student to
UNLABELLED_RATE = 0.0005
#: images below which nothing is learnt from the teacher alone unless a setting says so: 260 made a network worse
FEWEST_UNLABELLED = 1000
FEWEST_STEPS, MOST_STEPS = 500, 20_000
MOST_SIZES = 4  #: smaller inputs at which a network is pruned for a budget of operations


def steps_for(epochs: int, images: int) -> int:
    """Returns the steps of so many passes over so many images, within bounds."""
    return min(MOST_STEPS, max(FEWEST_STEPS, epochs * math.ceil(images / BATCH)))
