"""The order in which channels go when what each costs is known, and changes with each that went (see `surgeon`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from darkprune.graph.channels import BoolArray
from darkprune.layers.base import Floats, Indices

STEPS = 4000  #: about how often costs are looked at; in networks of more channels several go between two looks


@dataclass
class Reader:
    """A block of a convolution, brought up to date as channels go.

    Attributes:
        read: (c,) the class of each input channel; −1 for what is no one's.
        made: (n,) the class of each output channel.
        inverse: (c, c) inverse covariance of the inputs that are left.
        filters: (c, taps, n) its weights, in units of their effect on the outputs.
    """

    read: Indices
    made: Indices
    inverse: Tensor
    filters: Tensor

    def costs(self) -> Floats:
        """Returns what losing each input channel costs once the others made up for it; (c,), 0 for those that went."""
        strength = self.filters.flatten(1).square().sum(1, dtype=torch.float64)
        left = self.inverse.diagonal()
        return torch.where(left > 0, strength / left.clamp_min(1e-300), 0.0).cpu().numpy()

    def lose(self, channel: int) -> None:
        """Takes an input channel away; the others make up for it."""
        column = self.inverse[:, channel].clone()
        own = float(column[channel])
        if own > 0:
            share = column / own
            self.filters -= share.float().view(-1, 1, 1) * self.filters[channel].clone()
            self.inverse -= torch.outer(share, column)
        self.filters[channel] = 0
        self.inverse[channel], self.inverse[:, channel] = 0, 0

    def stop_making(self, channel: int) -> None:
        """Forgets an output channel: nobody reads it any more."""
        self.filters[:, :, channel] = 0


def removal_prices(readers: Sequence[Reader], candidates: BoolArray, macs: Floats) -> Floats:
    """Returns per class what its removal cost per multiply-add when its turn came, and no less than those before it.

    Sorting by it gives the order of removal; what is no candidate gets infinity.

    Args:
        readers: all that reads or makes candidates; used up.
        candidates: per class whether it may go.
        macs: per class the multiply-adds that go with it.
    """
    count = len(macs)
    reading: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    making: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for number, reader in enumerate(readers):
        for places, classes in ((reading, reader.read), (making, reader.made)):
            for channel, label in enumerate(classes.tolist()):
                if label >= 0:
                    places[label].append((number, channel))
    prices = np.full(count, np.inf)
    highest = 0.0
    left = candidates.copy()
    at_once = max(1, int(candidates.sum()) // STEPS)
    parts = [_by_class(reader, count) for reader in readers]
    cost = np.sum(parts, axis=0) if parts else np.zeros(count)
    while left.any():
        price = np.where(left, cost / macs, np.inf)
        touched: set[int] = set()
        for label in np.argsort(price, kind="stable")[: min(at_once, int(left.sum()))].tolist():
            if touched and touched & {number for number, _ in reading[label]}:
                continue  # its cost has changed
            highest = prices[label] = max(float(price[label]), np.nextafter(highest * (1 + 1e-9), np.inf))
            left[label] = False
            for number, channel in reading[label]:
                readers[number].lose(channel)
                touched.add(number)
            for number, channel in making[label]:
                readers[number].stop_making(channel)
                touched.add(number)
        for number in touched:
            renewed = _by_class(readers[number], count)
            cost += renewed - parts[number]
            parts[number] = renewed
    return prices


def _by_class(reader: Reader, count: int) -> Floats:
    chosen = reader.read >= 0
    return np.bincount(reader.read[chosen], reader.costs()[chosen], minlength=count).astype(np.float64)
