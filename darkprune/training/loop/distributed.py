"""Several processes that train together (`torchrun`): each computes some parts of every step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.network import Network
from darkprune.training.recipe.optimizer import gradients

BUCKET_BYTES = 64 << 20  #: gradients are added up in portions of about this size
PATIENCE = timedelta(hours=2)  #: how long processes wait for one that evaluates


class Ranks:
    """The processes of a run; by default this one alone.

    Attributes:
        rank: number of this process.
        count: how many there are.
        local: number of this process on its machine, which says its GPU.
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0) -> None:
        self.rank = rank
        self.count = count
        self.local = local

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def add_gradients(self, network: Network) -> None:
        """Adds up the processes' gradients, so that all have the sum."""
        if self.count == 1:
            return
        for bucket in _buckets(gradients(network)):
            flat = torch.cat([grad.reshape(-1) for grad in bucket])
            dist.all_reduce(flat)
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
                dist.all_reduce(buffer)
                buffer /= self.count

    def add(self, values: Tensor) -> Tensor:
        """Returns the sum of the processes' values."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def share(self, value: float) -> float:
        """Returns the first process's value in all of them."""
        if self.count == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return float(shared.item())

    def share_text(self, text: str) -> str:
        """Returns the first process's text in all of them."""
        if self.count == 1:
            return text
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        data = text.encode()
        shared = torch.zeros(int(self.share(len(data))), dtype=torch.uint8, device=device)
        if self.first:
            shared.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(shared, 0)
        return bytes(shared.tolist()).decode()

    def close(self) -> None:
        """Takes leave of the others."""
        if self.count > 1:
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
