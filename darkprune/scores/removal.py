"""The order in which channels are removed when the cost of each changes with every removal (see `surgeon`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from darkprune.graph.channels import BoolArray
from darkprune.layers.base import Floats, Indices
from darkprune.progress import Progress, silent, track

STEPS = 4000  #: about the number of times that costs are compared; of more channels several are removed at a time


@dataclass
class Consumer:
    """A block of a convolution, updated as channels are removed.

    Attributes:
        read: (c,) the class of each input channel; −1 for the network's input.
        produced: (n,) the class of each output channel.
        inverse: (c, c) inverse covariance of the inputs that are left.
        filters: (c, taps, n) its weights, in units of their effect on the outputs.
    """

    read: Indices
    produced: Indices
    inverse: Tensor
    filters: Tensor

    def costs(self) -> Floats:
        """Returns the cost of losing each input channel when the others compensate for it; (c,), 0 for removed ones."""
        strength = self.filters.flatten(1).square().sum(1, dtype=torch.float64)
        left = self.inverse.diagonal()
        return torch.where(left > 0, strength / left.clamp_min(1e-300), 0.0).cpu().numpy()

    def lose(self, channel: int) -> None:
        """Removes an input channel; the others compensate for it."""
        column = self.inverse[:, channel].clone()
        own = float(column[channel])
        if own > 0:
            share = column / own
            self.filters -= share.float().view(-1, 1, 1) * self.filters[channel].clone()
            self.inverse -= torch.outer(share, column)
        self.filters[channel] = 0
        self.inverse[channel], self.inverse[:, channel] = 0, 0

    def drop_output(self, channel: int) -> None:
        """Forgets an output channel that is no longer read."""
        self.filters[:, :, channel] = 0


def removal_prices(
    consumers: Sequence[Consumer], candidates: BoolArray, macs: Floats, progress: Progress = silent
) -> Floats:
    """Returns per class the cost of its removal per multiply-add when its turn came, at least that of those before it.

    Sorting by it gives the order of removal; classes that are no candidates get infinity.

    Args:
        consumers: all that read or produce candidates; used up.
        candidates: per class whether it may be removed.
        macs: per class the multiply-adds that go with it.
        progress: gets a step per class.
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
    step = track(progress, "ordering channels", int(candidates.sum()), "channel")
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
