"""A network as the referee sees it: layers in order, each with its numbers, sources and tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .reading import Options

Shape = tuple[int, int, int]


@dataclass
class ReferenceLayer:
    """One section after [net].

    Attributes:
        kind: section name, aliases resolved (`conv` is `convolutional`).
        shape: what the next layer sees, (c, h, w); (0, 0, 0) where darknet has no image.
        outputs: number of output values.
        sources: layers consumed, the previous one first; -1 is the image.
        resolved: the numbers darknet ends up with (groups, strides, padding ...).
        tensors: (name, shape) in file order.
        arrays: the tensors by name; a `share_index` layer holds the very dict of the layer it shares.
    """

    index: int
    kind: str
    options: Options
    input_shape: Shape
    inputs: int
    shape: Shape = (0, 0, 0)
    outputs: int = 0
    sources: list[int] = field(default_factory=list)
    resolved: dict[str, Any] = field(default_factory=dict)
    tensors: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class ReferenceNetwork:
    """A whole network. `input_shape` is (0, 0, 0) if the cfg gives only `inputs`."""

    options: Options
    input_shape: Shape
    inputs: int
    layers: list[ReferenceLayer] = field(default_factory=list)
    seen: int = 0
