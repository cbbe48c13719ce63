"""The order in which channels are removed when the cost of each changes with every removal (see `surgeon`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from darkprune.graph.channels import BoolArray
from darkprune.layers.base import Floats, Indices
from darkprune.progress import track

STEPS = 4000  #: about the number of times that costs are compared; of more channels several are removed at a time
CHUNK = 1 << 18  #: values that are computed at a time
FEWEST_ROWS = 64  #: below it matrices are not made smaller any more


class Consumer:
    """A block of a convolution, updated as channels are removed.

    Attributes:
        read: (c,) the class of each input channel; −1 for the network's input.
        produced: (n,) the class of each output channel.
        inverse: (rows, rows) inverse covariance of the inputs that are left, and of removed ones as zeros.
        filters: (rows, taps, n) its weights, in units of their effect on the outputs.
    """

    def __init__(self, read: Indices, produced: Indices, inverse: Tensor, filters: Tensor) -> None:
        """Takes the matrices of all channels, which it changes."""
        self.read, self.produced, self.inverse, self.filters = read, produced, inverse, filters
        self._channels = np.arange(len(read))  # of the rows
        self._row_of = np.arange(len(read))
        self._removed = np.zeros(len(read), bool)

    def costs(self) -> Floats:
        """Returns the cost of losing each input channel when the others compensate for it; (c,), 0 for removed ones."""
        flat = self.filters.flatten(1)
        strength = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
        for rows in _chunks(flat):
            torch.sum(flat[rows].square().double(), 1, out=strength[rows])
        left = self.inverse.diagonal()
        costs = np.zeros(len(self.read))
        costs[self._channels] = torch.where(left > 0, strength / left.clamp_min(1e-300), 0.0).cpu().numpy()
        return costs

    def lose(self, channel: int) -> None:
        """Removes an input channel; the others compensate for it."""
        row = int(self._row_of[channel])
        column, filters = self.inverse[:, row].clone(), self.filters[row].clone()
        own = float(column[row])
        if own > 0:
            share = column / own
            for rows in _chunks(self.filters):  # large temporary results cost more than the arithmetic
                self.filters[rows] -= share[rows].float().view(-1, 1, 1) * filters
            for rows in _chunks(self.inverse):
                self.inverse[rows] -= torch.outer(share[rows], column)
        self.filters[row] = 0
        self.inverse[row], self.inverse[:, row] = 0, 0
        self._removed[channel] = True
        left = ~self._removed[self._channels]
        if 2 * left.sum() < len(left) > FEWEST_ROWS:
            self._shrink(left)

    def drop_output(self, channel: int) -> None:
        """Forgets an output channel that is no longer read."""
        self.filters[:, :, channel] = 0

    def _shrink(self, left: BoolArray) -> None:
        """Drops the rows of removed channels."""
        rows = torch.from_numpy(np.flatnonzero(left)).to(self.inverse.device)
        self.inverse = self.inverse[rows][:, rows].contiguous()
        self.filters = self.filters[rows].contiguous()
        self._channels = self._channels[left]
        self._row_of[self._channels] = np.arange(len(self._channels))


def removal_prices(consumers: Sequence[Consumer], candidates: BoolArray, macs: Floats) -> Floats:
    """Returns per class the cost of its removal per multiply-add when its turn came, at least that of those before it.

    Sorting by it gives the order of removal; classes that are no candidates get infinity.

    Args:
        consumers: all that read or produce candidates; used up.
        candidates: per class whether it may be removed.
        macs: per class the multiply-adds that go with it.
    """
    count = len(macs)
    reading: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    producing: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for number, consumer in enumerate(consumers):
        for places, classes in ((reading, consumer.read), (producing, consumer.produced)):
            for channel, label in enumerate(classes.tolist()):
                if label >= 0:
                    places[label].append((number, channel))
    prices = np.full(count, np.inf)
    highest = 0.0
    left = candidates.copy()
    at_once = max(1, int(candidates.sum()) // STEPS)
    parts = [_by_class(consumer, count) for consumer in consumers]
    cost = np.sum(parts, axis=0) if parts else np.zeros(count)
    step = track("ordering channels", int(candidates.sum()), "channel")
    while left.any():
        price = np.where(left, cost / macs, np.inf)
        touched: set[int] = set()
        for label in np.argsort(price, kind="stable")[: min(at_once, int(left.sum()))].tolist():
            if touched and touched & {number for number, _ in reading[label]}:
                continue  # its cost has changed
            highest = prices[label] = max(float(price[label]), np.nextafter(highest * (1 + 1e-9), np.inf))
            left[label] = False
            step()
            for number, channel in reading[label]:
                consumers[number].lose(channel)
                touched.add(number)
            for number, channel in producing[label]:
                consumers[number].drop_output(channel)
                touched.add(number)
        for number in touched:
            renewed = _by_class(consumers[number], count)
            cost += renewed - parts[number]
            parts[number] = renewed
    return prices


def _by_class(consumer: Consumer, count: int) -> Floats:
    chosen = consumer.read >= 0
    return np.bincount(consumer.read[chosen], consumer.costs()[chosen], minlength=count).astype(np.float64)


def _chunks(matrix: Tensor) -> list[slice]:
    """Divides a matrix by rows into parts of about `CHUNK` values."""
    step = max(1, CHUNK * len(matrix) // max(1, matrix.numel()))
    return [slice(first, first + step) for first in range(0, len(matrix), step)]
