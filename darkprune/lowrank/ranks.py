"""The rank of every convolution: least loss in all within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from darkprune.errors import PlanError
from darkprune.graph.graph import Layer
from darkprune.layers.base import Floats
from darkprune.layers.convolution import Convolutional
from darkprune.lowrank.directions import Directions
from darkprune.selection.budget import Place, bisection

FEWEST = 8  #: directions that a projection keeps at least
STEPS = 64  #: ranks of each projection that are tried where there are two
PRICES = (1e-15, 1e15)  #: lowest and highest, of all costs in units of all losses
BISECTIONS = 20  #: after which a price is known to 0.01 %

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Choices:
    """What a convolution can become; the first is what it is.

    Attributes:
        inputs, outputs: ranks; 0 where there is no such projection.
        macs, params: multiply-adds for one image and stored floats.
        losses: mean squared change of an output.
    """

    inputs: Ints
    outputs: Ints
    macs: Floats
    params: Floats
    losses: Floats

    def costs(self, kind: str) -> Floats:
        """Returns what a budget of that kind counts: multiply-adds, floats or bytes."""
        return {"macs": self.macs, "params": self.params, "size": 4 * self.params}[kind]


def choices_of(layer: Layer, outputs: Directions, inputs: Directions | None, multiple: int = 1) -> Choices:
    """Lists the factorisations of a convolution that save multiply-adds and parameters.

    Args:
        outputs: directions of its sums.
        inputs: directions of its input channels; None: they all stay. Not used of a 1x1 convolution, where they
            make the same products.
        multiple: ranks are multiples of this number.
    """
    assert isinstance(layer.kind, Convolutional)
    n, c, taps = layer.output.c, layer.inputs[0].c, layer.kind.geometry.size**2
    places, seen = layer.output.h * layer.output.w, layer.inputs[0].h * layer.inputs[0].w
    out_ranks = _ranks(n, multiple)
    pairs = [np.stack([np.zeros_like(out_ranks), out_ranks], 1)]
    if inputs is not None and taps > 1:
        in_ranks = _ranks(c, multiple)
        pairs.append(np.stack([in_ranks, np.zeros_like(in_ranks)], 1))
        grid = np.meshgrid(_ranks(c, multiple, STEPS), _ranks(n, multiple, STEPS), indexing="ij")
        pairs.append(np.stack([axis.ravel() for axis in grid], 1))
    a, b = np.concatenate([np.zeros((1, 2), np.int64), *pairs]).T
    width_in, width_out = np.where(a > 0, a, c), np.where(b > 0, b, n)
    core = width_in * width_out * taps
    macs = core * places + np.where(a > 0, c * a * seen, 0) + np.where(b > 0, n * b * places, 0)
    params = core + np.where(a > 0, c * a + a, 0) + np.where(b > 0, n * b + b, 0)
    losses = outputs.losses[np.where(b > 0, b, n)]
    if inputs is not None:
        losses = losses + inputs.losses[np.where(a > 0, a, c)]
    saves = (macs < macs[0]) & (params < params[0])
    saves[0] = True
    return Choices(a[saves], b[saves], *(np.array(values[saves], np.float64) for values in (macs, params, losses)))


def choose_ranks(choices: Mapping[int, Choices], kind: str, left: float) -> dict[int, int]:
    """Chooses for every layer so that the summed loss is least.

    First by one price for all (a Lagrange multiplier), then what is left of the budget is spent where it helps most.

    Args:
        choices: layer -> what it can become.
        kind: what the budget counts: `macs`, `params` or `size`.
        left: what all these layers together may have of it.

    Returns:
        Layer -> number of its choice.

    Raises:
        PlanError: the budget cannot be met.
    """
    costs = {index: found.costs(kind) for index, found in choices.items()}
    least = sum(float(values.min()) for values in costs.values())
    if least > left:
        raise PlanError(
            f"factorisation alone leaves at least {least - left:,.0f} {kind} more than asked for; "
            "ask for less, or prune the result as well"
        )
    scale = sum(float(found.losses.max()) for found in choices.values()) or 1.0
    whole = sum(float(values[0]) for values in costs.values()) or 1.0

    def at(price: float) -> dict[int, int]:
        return {i: int((found.losses / scale + price * costs[i] / whole).argmin()) for i, found in choices.items()}

    def cost(chosen: Mapping[int, int]) -> float:
        return sum(float(costs[index][number]) for index, number in chosen.items())

    lowest, highest = (Place(price, cost(at(price))) for price in PRICES)
    places = bisection(lambda price: cost(at(price)), left, lowest, highest, _geometric_mean)
    tried = [lowest, *islice(places, BISECTIONS)]
    chosen = at(min((place.at for place in tried if place.left <= left), default=highest.at))
    while True:
        spare = left - cost(chosen)
        gains = {}
        for index, number in chosen.items():
            gain = choices[index].losses[number] - choices[index].losses
            gain = np.where(costs[index] - costs[index][number] <= spare, gain, 0.0)
            gains[index] = (float(gain.max()), int(gain.argmax()))
        best = max(gains, key=lambda index: gains[index][0], default=None)
        if best is None or gains[best][0] <= 0:
            return chosen
        chosen[best] = gains[best][1]


def _geometric_mean(low: Place, high: Place, target: float) -> float:
    return math.sqrt(low.at * high.at)


def _ranks(width: int, multiple: int, steps: int | None = None) -> Ints:
    """Lists the ranks below a width that are tried."""
    step = multiple if steps is None else multiple * max(1, -(-width // (multiple * steps)))
    ranks = np.arange(step, width, step, dtype=np.int64)
    return ranks[ranks >= min(FEWEST, width)]
