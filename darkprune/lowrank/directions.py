"""Directions of a map's channels, in the order of what losing them costs at the network's outputs.

If y = Σ kept directions, the error e of the others changes an output with derivative g by g·e. With C the covariance of
the map and G that of g, the mean of its square is trace(G C) where both are taken as independent: the principal
components of G^½ y are the directions to keep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from darkprune.layers.base import Floats
from darkprune.surgery.factors.projection import Projection

SMALLEST = 1e-10  #: eigenvalue of a metric, as a share of the largest: what has no effect is still told apart


@dataclass(frozen=True, eq=False)
class Directions:
    """All directions of a map of n channels.

    Attributes:
        basis: (n, n), one direction per column, of length 1.
        coordinates: (n, n), its inverse.
        losses: (n + 1,): what is lost where only the first 0, 1 … n directions stay.
    """

    basis: Floats
    coordinates: Floats
    losses: Floats

    def first(self, rank: int) -> Projection:
        """Returns the projection onto the first directions."""
        return Projection(self.basis[:, :rank].astype(np.float32), self.coordinates[:rank].astype(np.float32))


def find_directions(covariance: Floats, metric: Floats) -> Directions:
    """Finds the directions of a map.

    Args:
        covariance: (n, n), C; second moments where nothing can make up for a mean.
        metric: (n, n), G.
    """
    values, vectors = np.linalg.eigh(metric)
    values = np.maximum(values, max(float(values[-1]) * SMALLEST, np.finfo(np.float32).tiny))
    root, inverse = (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
    powers, axes = np.linalg.eigh(root @ covariance @ root)
    powers, axes = np.maximum(powers[::-1], 0), axes[:, ::-1]
    basis, coordinates = inverse @ axes, axes.T @ root
    lengths = np.linalg.norm(basis, axis=0)  # inner maps have the scale of the sums, which 16-bit arithmetic can hold
    losses = np.append(np.cumsum(powers[::-1])[::-1], 0.0)
    return Directions(basis / lengths, coordinates * lengths[:, None], losses)
