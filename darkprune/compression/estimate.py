"""How long the stages of a run take, roughly: their work in forward passes of the original, and the time of one pass.

The factors are rounded measurements on two cores; what a stage really took corrects the estimate of the later ones
(see `darkprune.runs.outlook`).
"""

from __future__ import annotations

import time

from darkprune.api.pair import Pair
from darkprune.api.prune import PruneSettings
from darkprune.training.settings import RunSettings

STEP = 3.5  #: forward, backward and update of one training image
SCORES = {"auto": 500.0, "surgeon": 1200.0, "sensitivity": 500.0, "first-order": 500.0}  #: on 64 images
OTHER_SCORES, REFIT = 150.0, 2000.0
RUNNER = 0.5  #: of one image in a program for inference
MOST_PASSES = 10  #: that are timed; the fastest counts, because others met a machine that was cold or busy


def cost_of_training(settings: RunSettings, images: int, share: float, teacher: bool = False) -> float:
    """Returns the work of training.

    Args:
        settings: with steps or passes, and images per step.
        images: in the training set.
        share: of the original's operations that the network has.
        teacher: whether the original runs beside it.
    """
    if settings.iterations is not None:
        shown = float(settings.iterations * (settings.batch or 64))
    else:
        shown = (settings.epochs or 0.0) * images
    return shown * (STEP * share + (1 if teacher else 0))


def cost_of_pruning(settings: PruneSettings, share: float) -> float:
    """Returns the work of scoring, and of a refit, at an input size with a share of the original's operations."""
    cost = 0.0
    if settings.images is not None and settings.plan is None:
        cost += SCORES.get(settings.criterion, OTHER_SCORES if settings.looks_at_images() else 0.0)
    if settings.recover != "none":
        cost += REFIT
    return cost * share


def cost_of_refit(share: float) -> float:
    """Returns the work of choosing ranks and of a refit, at an input size with a share of the original's operations."""
    return (OTHER_SCORES + REFIT) * share


def cost_of_evaluation(images: int, share: float) -> float:
    """Returns the work of running a network over images."""
    return images * RUNNER * share


def seconds_per_pass(pair: Pair) -> float:
    """Measures one forward pass with one image, where the work of a run is done: on the GPU, if there is one."""
    import torch

    from darkprune.network.loading import default_device, load_network

    shape = pair.graph.net.input
    with pair.open() as weights, torch.inference_mode():
        network = load_network(weights)
        image = torch.rand(1, shape.c, shape.h, shape.w, device=default_device())
        network(image)
        seconds: list[float] = []
        while len(seconds) < MOST_PASSES and sum(seconds) < 1:
            began = time.perf_counter()
            float(network(image).output.sum())  # waits for a GPU
            seconds.append(time.perf_counter() - began)
        return min(seconds)
