"""Several processes that train together (`torchrun`): each computes some parts of every step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.network import Network
from darkprune.training.recipe.optimizer import gradients

BUCKET_BYTES = 64 << 20  #: gradients are added up in portions of about this size
_T = TypeVar("_T", float, str)
PATIENCE = timedelta(hours=2)  #: how long processes wait for one that evaluates


@dataclass(frozen=True)
class Ranks:
    """The processes of a run; by default this one alone.

    What they do together raises a TrainingError where another one has ended.

    Attributes:
        rank: number of this process.
        count: how many there are.
        local: number of this process on its machine, and of its GPU.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports to the user."""
        return self.rank == 0

    def add_gradients(self, network: Network) -> None:
        """Adds up the processes' gradients, so that all have the sum."""
        if self.count == 1:
            return
        for bucket in _buckets(gradients(network)):
            flat = self.add(torch.cat([grad.reshape(-1) for grad in bucket]))
            start = 0
            for grad in bucket:
                grad.copy_(flat[start : start + grad.numel()].view_as(grad))
                start += grad.numel()

    def average_statistics(self, network: Network) -> None:
        """Averages the running statistics, which each process gathers from its own images.

        They follow their batches linearly, so that doing this now and then gives what doing it every step would.
        """
        if self.count == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                self.add(buffer)
                buffer /= self.count

    def add(self, values: Tensor) -> Tensor:
        """Returns the sum of the processes' values, which takes the place of this one's."""
        if self.count > 1:
            with _together():
                dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Waits for all processes."""
        if self.count > 1:
            with _together():
                dist.barrier()

    def share(self, value: _T) -> _T:
        """Returns the first process's value, a number or a text, in all of them."""
        if self.count == 1:
            return value
        shared = [value]
        with _together():
            dist.broadcast_object_list(shared, 0)
        return shared[0]

    def close(self) -> None:
        """Leaves the group of processes."""
        if self.count > 1:
            with suppress(RuntimeError):  # others may have ended
                dist.destroy_process_group()


def join_ranks(cuda: bool) -> Ranks:
    """Joins the other processes where `torchrun` started this one, with nccl on GPUs and gloo elsewhere.

    Raises:
        TrainingError: the others cannot be reached.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks()
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    try:
        if cuda:
            torch.cuda.set_device(local)
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"cannot join the other processes: {str(error).splitlines()[0][:120]}") from None
    return Ranks(rank, count, local)


@contextmanager
def _together() -> Iterator[None]:
    """Turns what the backends raise where another process has ended into one line.

    Raises:
        TrainingError: it has.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        what = "another process of this run has ended, or cannot be reached"
        raise TrainingError(f"{what}; --resume goes on from the last state that was saved") from error


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        bucket.append(tensor)
        filled += tensor.numel() * tensor.element_size()
        if filled >= BUCKET_BYTES:
            yield bucket
            bucket, filled = [], 0
    if bucket:
        yield bucket
