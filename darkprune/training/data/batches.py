"""Batches for training: made ahead by worker processes; their number does not change the batches.

Which images a step sees, and how they are varied, depends on the seed and the step's number alone. So a run can be
resumed at any step, several processes can share a step, and no state of a generator has to be saved.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from darkprune.data.dataset import DataProblem
from darkprune.errors import DataError
from darkprune.processes import usable_cores
from darkprune.training.data.augment import Labels
from darkprune.training.data.examples import Example, ExampleMaker
from darkprune.training.losses import Truths, make_truths

_ORDER, _EXAMPLE, _SIZE = 1, 2, 3  #: streams of random numbers that are drawn from one seed
SIZE_STEPS = 10  #: steps for which a random input size is kept
PREFETCH = 2  #: batches that each worker prepares ahead


@dataclass(frozen=True)
class SizeSettings:
    """Which input sizes a run uses (`random` of the last head, `resize_step`).

    Attributes:
        width, height: of the cfg, in pixels.
        spread: 0 for one size; else sizes are drawn from 1/spread to spread times as large.
        multiple: sizes are multiples of this.
    """

    width: int
    height: int
    spread: float = 0.0
    multiple: int = 32

    def at(self, step: int, steps: int, seed: int) -> tuple[int, int]:
        """Returns width and height of a step, counted from 0 (`train_detector`).

        The first steps and the last have the largest size: so that a lack of memory shows at once, and so that the
        running statistics end at one size.
        """
        if not self.spread:
            return self.width, self.height
        if step < SIZE_STEPS or step > steps - min(100, steps // 10):
            factor = self.spread
        else:
            random = np.random.default_rng([seed, _SIZE, step // SIZE_STEPS])
            factor = float(random.uniform(1, self.spread))
            factor = factor if random.integers(2) else 1 / factor
        sizes = (self._rounded(factor * self.width), self._rounded(factor * self.height))
        if factor < 1 and (sizes[0] > self.width or sizes[1] > self.height):
            return self.width, self.height
        return sizes

    def _rounded(self, side: float) -> int:
        return max(self.multiple, int(side / self.multiple + 1 + 0.5) * self.multiple)

    @property
    def largest(self) -> tuple[int, int]:
        """Width and height of the largest input."""
        return self.at(0, 1, 0)


@dataclass(frozen=True)
class BatchPlan:
    """How examples are distributed over steps, parts and processes.

    Attributes:
        batch: examples per step, over all processes.
        parts: parts that a step's examples are divided into (`subdivisions`).
        steps: of the whole run.
        seed: of the run.
        sizes: input sizes.
        rank, ranks: number of this process, and how many there are: part p goes to process p mod ranks.
    """

    batch: int
    parts: int
    steps: int
    seed: int
    sizes: SizeSettings
    rank: int = 0
    ranks: int = 1

    @property
    def part(self) -> int:
        """Examples per part."""
        return self.batch // self.parts

    def image_of(self, position: int, images: int) -> int:
        """Returns which image is at a position of an endless list that is shuffled anew in every epoch."""
        return int(_order(self.seed, position // images, images)[position % images])


@dataclass(frozen=True, eq=False)
class Batch:
    """One part of a step.

    Attributes:
        step: from 0.
        pixels: (b, h, w, c) uint8.
        truths: objects.
        sources: positions of the images in the set, in order of appearance, without repetition.
        problems: images that could not be read.
    """

    step: int
    pixels: Tensor
    truths: Truths
    sources: tuple[int, ...]
    problems: tuple[DataProblem, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def images(self, device: torch.device) -> Tensor:
        """Returns (b, c, h, w) float32 in 0…1 on a device; its memory is laid out channels last."""
        return self.pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


class BatchLoader:
    """Makes the batches of a run."""

    def __init__(self, maker: ExampleMaker, plan: BatchPlan, workers: int, *, pin: bool = False) -> None:
        """Prepares to load.

        Args:
            workers: processes; 0 makes them in this one.
            pin: put pixels into page-locked memory.
        """
        self.maker = maker
        self.plan = plan
        self.workers = workers
        self.pin = pin

    def start(self, step: int) -> Generator[Batch]:
        """Yields the parts of step `step` and all later ones that belong to this process, in order.

        Raises:
            DataError: an image cannot be read and the maker is strict, or too many cannot.
        """
        loader: DataLoader[Batch | DataError] = DataLoader(
            _Parts(self.maker, self.plan),
            batch_size=None,
            sampler=_Places(self.plan, step),
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            worker_init_fn=_quiet if self.workers else None,
            collate_fn=None,
        )
        source = iter(loader)
        try:
            for found in source:
                if isinstance(found, DataError):
                    raise found
                if self.pin:
                    found = Batch(found.step, found.pixels.pin_memory(), found.truths, found.sources, found.problems)
                yield found
        except (ConnectionError, EOFError) as error:  # a worker that dies while it sends a batch
            raise RuntimeError("DataLoader worker has hung up") from error
        finally:
            # torch ends its workers when the iterator is freed; a traceback that still refers to it would keep them
            # alive, and their errors would be raised anywhere
            shut_down = getattr(source, "_shutdown_workers", None)
            if shut_down is not None:
                shut_down()


class _Places(Sampler[tuple[int, int]]):
    """(step, part) of every part that this process will compute."""

    def __init__(self, plan: BatchPlan, first: int) -> None:
        self.plan = plan
        self.first = first

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for step in range(self.first, self.plan.steps):
            for part in range(self.plan.rank, self.plan.parts, self.plan.ranks):
                yield step, part


class _Parts(TorchDataset["Batch | DataError"]):
    """Makes the part of a step. An error is returned as a value, since its type is lost between processes."""

    def __init__(self, maker: ExampleMaker, plan: BatchPlan) -> None:
        self.maker = maker
        self.plan = plan

    def __getitem__(self, place: tuple[int, int]) -> Batch | DataError:
        step, part = place
        plan = self.plan
        width, height = plan.sizes.at(step, plan.steps, plan.seed)
        examples: list[Example] = []
        try:
            for slot in range(part * plan.part, (part + 1) * plan.part):
                position = step * plan.batch + slot
                random = np.random.default_rng([plan.seed, _EXAMPLE, position])
                index = plan.image_of(position, len(self.maker.images))
                examples.append(self.maker.make(index, width, height, random))
        except DataError as error:
            return error
        pixels = torch.from_numpy(np.stack([example.pixels for example in examples]))
        labels: list[Labels] = [example.labels for example in examples]
        sources = tuple(dict.fromkeys(source for example in examples for source in example.sources))
        problems = tuple(problem for example in examples for problem in example.problems)
        return Batch(step, pixels, make_truths(labels), sources, problems)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, images: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(images)


def died(error: RuntimeError) -> bool:
    """Returns whether an error means that a worker has died; torch raises it anywhere, from a signal handler."""
    return "DataLoader worker" in str(error)


def _quiet(worker: int) -> None:
    """Prepares a worker: one thread, no reaction to Ctrl-C and to a first SIGTERM.

    Both reach all processes of a terminal or a batch system's job; the process that trains has to finish its step.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def default_workers() -> int:
    """Returns how many worker processes suit this machine."""
    return min(16, usable_cores())
