"""From a public mask to widths that can be: floors, `round_to`, equal blocks.

Channels are only ever given back, the dearest first, until floors, multiples and equal counts hold all at once; keeping
everything always satisfies them, so the process ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from darkprune.graph.channels import BoolArray, ChannelMap, EqualSplit, distinct
from darkprune.layers.base import Floats, Indices


@dataclass(frozen=True)
class Limits:
    """What every width must obey.

    Attributes:
        min_channels: floor per convolution, next to 1 % of its channels.
        round_to: widths are multiples of it where the network allows.
    """

    min_channels: int = 8
    round_to: int = 1

    def floor(self, width: int) -> int:
        """Returns the least number of channels that a layer of some width keeps."""
        return min(width, max(self.min_channels, -(-width // 100), 1))


@dataclass(frozen=True)
class Settled:
    """A mask that satisfies everything.

    Attributes:
        keep: per class.
        at_floor: layers that the floor had to give channels back.
        rounded: per class whether it was given back only to fill a multiple or an equal block.
    """

    keep: BoolArray
    at_floor: tuple[int, ...]
    rounded: BoolArray


def settle(channels: ChannelMap, keep: BoolArray, priority: Floats, limits: Limits) -> Settled:
    """Gives channels back until floors, multiples and equal blocks hold.

    Args:
        keep: per class, what merging decided.
        priority: per class, larger is given back first; ties go to the lower class.
    """
    keep = keep.copy()
    at_floor = _raise_to_floors(channels, keep, priority, limits)
    floored = keep.copy()
    floors: set[int] = set(at_floor)
    splits = sorted(channels.splits, key=lambda split: split.classes.shape[1])  # the finest decide what others can have
    while True:
        before = int(keep.sum())
        _round_atoms(channels, keep, priority, limits)
        for split in splits:
            _equalise(split, keep, priority, limits)
        floors.update(_raise_to_floors(channels, keep, priority, limits))
        if int(keep.sum()) == before:
            return Settled(keep, tuple(sorted(floors)), keep & ~floored)


def _give_back(keep: BoolArray, candidates: Indices, priority: Floats, count: int) -> None:
    """Keeps `count` more of the candidates (classes, distinct), the dearest first."""
    gone = candidates[~keep[candidates]]
    order = np.lexsort((gone, -priority[gone]))
    keep[gone[order[:count]]] = True


def _raise_to_floors(channels: ChannelMap, keep: BoolArray, priority: Floats, limits: Limits) -> list[int]:
    raised = []
    for layer in channels.producers:
        classes = channels.of_layer[layer]
        missing = limits.floor(len(classes)) - int(keep[classes].sum())
        if missing > 0:
            _give_back(keep, distinct(classes), priority, missing)
            raised.append(layer)
    return raised


def _round_atoms(channels: ChannelMap, keep: BoolArray, priority: Floats, limits: Limits) -> None:
    if limits.round_to == 1:
        return
    # blocks of a grouped convolution are too narrow for multiples: there the total is aligned, by _equalise
    grouped = {number for split in channels.splits if split.aligned_total for number in split.classes.ravel().tolist()}
    for atom in channels.atoms:
        if int(atom[0]) in grouped:
            continue
        kept = int(keep[atom].sum())
        _give_back(keep, atom, priority, min(len(atom), _up(kept, limits.round_to)) - kept)


def _equalise(split: EqualSplit, keep: BoolArray, priority: Floats, limits: Limits) -> None:
    blocks = split.classes
    counts = np.where(blocks < 0, True, keep[blocks]).sum(axis=1)
    wanted = int(counts.max())
    if limits.round_to > 1:
        number = len(blocks) if split.aligned_total else 1
        while wanted < blocks.shape[1] and wanted * number % limits.round_to:
            wanted += 1
    for row, count in zip(blocks, counts.tolist(), strict=True):
        if count < wanted:
            _give_back(keep, distinct(row[row >= 0]), priority, wanted - count)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
