"""Memory: how many images fit at a time, and advice where they do not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph
from darkprune.network import Network
from darkprune.training.data.augment import NO_LABELS
from darkprune.training.data.batches import Batch
from darkprune.training.losses import make_truths
from darkprune.training.recipe.recipe import Recipe

#: bytes that a step takes per byte of the maps that it has to keep, measured on five networks (1.3 to 1.6)
PER_BYTE = 1.7
MARGIN = 0.8  #: share of the free memory that is planned with
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def parts_that_fit(graph: Graph, recipe: Recipe, device: torch.device, ranks: int) -> int:
    """Returns the parts of a recipe, or more where so many images at a time need more memory than is free.

    Args:
        ranks: processes that share a step, and on a CPU the memory.
    """
    free = free_memory(device)
    if free is None:
        return recipe.parts
    share = free * MARGIN / (1 if device.type == "cuda" else ranks)
    share -= 16 * graph.params  # weights, gradients and two moments
    width, height = recipe.sizes.largest
    pixels = width * height / (graph.net.input.w * graph.net.input.h)
    floats = sum(
        layer.output.outputs * (2 if any(blob.name == "scales" for blob in layer.blobs) else 1) for layer in graph
    )
    image = PER_BYTE * floats * pixels * (4 if recipe.precision == "full" else 2.4)
    possible = [count for count in range(recipe.parts, recipe.batch + 1) if recipe.batch % count == 0]
    possible = [count for count in possible if count % ranks == 0]
    fitting = [count for count in possible if recipe.batch // count * image <= share]
    return (fitting or possible[-1:])[0]


def free_memory(device: torch.device) -> int | None:
    """Returns the free bytes of a GPU, or of this machine within the process's limits; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    return max(0, min([free, *_left_in_groups(), *_left_of_limits()]))


def _left_in_groups() -> Iterator[int]:
    """Yields the bytes left in the process's control group and those around it (containers, slices of systemd)."""
    try:
        own = next(line[3:] for line in _OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        own = "/"
    folder = _GROUPS / own.strip("/")
    for place in [folder, *folder.parents]:
        with suppress(OSError, ValueError, StopIteration):  # no such group, or one without a limit ("max")
            limit, used = (int((place / name).read_text()) for name in ("memory.max", "memory.current"))
            stat = (place / "memory.stat").read_text().splitlines()
            # the system gives these pages of files back when memory is wanted
            used -= next((int(line.split()[1]) for line in stat if line.startswith("inactive_file ")), 0)
            yield limit - used


def _left_of_limits() -> Iterator[int]:
    """Yields the bytes left within `ulimit -v` and `ulimit -d`."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        pages = Path("/proc/self/statm").read_text().split()
        for kind, column in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
            limit = resource.getrlimit(kind)[0]
            if limit != resource.RLIM_INFINITY:
                yield limit - int(pages[column]) * resource.getpagesize()


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that memory ran out, on a device or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def advice(network: Network, attempt: Callable[[Batch], object], recipe: Recipe, ranks: int) -> TrainingError:
    """Tries how many images fit at a time, and returns an error that says what to set.

    Args:
        attempt: runs it forwards and backwards.
    """
    width, height = recipe.sizes.largest
    place = f"out of memory at {width}x{height} pixels with {recipe.part} images at a time (batch={recipe.batch}, "
    place += f"subdivisions={recipe.parts})"
    for parts in range(recipe.parts + 1, recipe.batch + 1):
        if recipe.batch % parts or parts % ranks:
            continue
        smaller = recipe.batch // parts
        if _fits(network, attempt, smaller, recipe.sizes.largest):
            return TrainingError(f"{place}; {smaller} at a time fit: give --subdivisions {parts}")
    hint = "choose a smaller --size" + ("" if recipe.precision != "full" else ", or --precision bf16")
    return TrainingError(f"{place}; not even one image at a time fits: {hint}, or a smaller network")


def _fits(network: Network, attempt: Callable[[Batch], object], images: int, size: tuple[int, int]) -> bool:
    """Tries empty images of some width and height, with room for the optimiser's moments."""
    network.zero_grad(set_to_none=True)
    gc.collect()
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        moments = [torch.empty_like(p) for p in network.parameters() for _ in range(2)]
        pixels = torch.zeros(images, *reversed(size), network.graph.net.input.c, dtype=torch.uint8)
        attempt(Batch(0, pixels, make_truths([NO_LABELS] * images), (), ()))
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
