"""Out of memory: recognising it, and finding out what would fit."""

from __future__ import annotations

import gc

import torch
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.network import Network
from darkprune.training.data.batches import Batch
from darkprune.training.loop.objective import Objective
from darkprune.training.losses import Truths
from darkprune.training.recipe.recipe import Recipe


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error means that memory ran out, on a device or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def advice(network: Network, objective: Objective, recipe: Recipe, device: torch.device, ranks: int) -> TrainingError:
    """Finds by trying how many images fit at a time, and says what to set.

    Args:
        network, objective, recipe: of the run that failed.
        device: where it ran.
        ranks: processes that share a step.
    """
    part = recipe.batch // recipe.parts
    width, height = recipe.sizes.largest
    place = f"out of memory at {width}x{height} pixels with {part} images at a time (batch={recipe.batch}, "
    place += f"subdivisions={recipe.parts})"
    for parts in range(recipe.parts + 1, recipe.batch + 1):
        if recipe.batch % parts or parts % ranks:
            continue
        smaller = recipe.batch // parts
        if _fits(network, objective, smaller, recipe, device):
            return TrainingError(f"{place}; {smaller} at a time fit: give --subdivisions {parts}")
    hint = "choose a smaller --size" + ("" if recipe.precision != "full" else ", or --precision bf16")
    return TrainingError(f"{place}; not even one image at a time fits: {hint}, or a smaller network")


def _fits(network: Network, objective: Objective, images: int, recipe: Recipe, device: torch.device) -> bool:
    """Tries a step on empty images, with room for the optimiser's moments."""
    network.zero_grad(set_to_none=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    width, height = recipe.sizes.largest
    try:
        moments: list[Tensor] = [torch.empty_like(p) for p in network.parameters() for _ in range(2)]
        pixels = torch.zeros(images, height, width, network.graph.net.input.c, dtype=torch.uint8)
        truths = Truths(torch.zeros(images, 0, 4), torch.zeros(images, 0, dtype=torch.long))
        batch = Batch(0, pixels, truths, (), ())
        given = batch.images(device)
        precise = recipe.precision == "full"
        with torch.autocast(device.type, torch.bfloat16, enabled=not precise):
            output = network(given, objective.taps)
        objective.compute(given, output, batch, 0).value.backward()  # type: ignore[no-untyped-call]
        del moments
    except TrainingError:
        return False  # batch normalisation needs more than one value
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return False
        raise
    finally:
        network.zero_grad(set_to_none=True)
    return True
