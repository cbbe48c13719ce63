"""What the subspaces of a convolution follow from, and its estimate without images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from darkprune.graph.graph import Layer
from darkprune.graph.weights import TensorSource
from darkprune.layers.base import Floats
from darkprune.layers.convolution import BN_EPSILON, Convolutional
from darkprune.lowrank.directions import Directions, find_directions

INDEPENDENT = 0.02  #: share of G that is taken to be diagonal: a mean over few images is not exact
TAP_CORRELATION = 0.5  #: between the errors of an input channel at two taps of a window; maps are smooth


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of a convolution's maps on images, or estimates of them.

    Attributes:
        filters: (n, c, taps).
        covariance: (n, n), of its sums before batch normalisation or bias.
        mean: (n,), of the same.
        effect: (n, n): mean over images of Σ_positions g gᵀ, g the derivatives of an output by the sums.
        inputs: (c, c), second moments of its inputs at one position; None where nothing is known of them.
    """

    filters: Floats
    covariance: Floats
    mean: Floats
    effect: Floats
    inputs: Floats | None

    @property
    def _metric(self) -> Floats:
        return (1 - INDEPENDENT) * self.effect + INDEPENDENT * np.diag(self.effect.diagonal())

    def of_outputs(self) -> Directions:
        """Returns the directions of the sums."""
        return find_directions(self.covariance, self._metric)

    def of_inputs(self) -> Directions | None:
        """Returns the directions of the inputs, whose errors all taps see; None where nothing is known of them."""
        if self.inputs is None:
            return None
        taps = self.filters.shape[2]
        together = TAP_CORRELATION + (1 - TAP_CORRELATION) * np.eye(taps)
        spread = self.filters @ together  # (n, c, taps)
        weighted = np.tensordot(self._metric, spread, 1)
        metric = np.tensordot(self.filters, weighted, ((0, 2), (0, 2)))
        return find_directions(self.inputs, (metric + metric.T) / 2)


def moments_of_weights(weights: TensorSource, layer: Layer) -> Moments:
    """Estimates the moments of a convolution without images.

    The correlations of its sums are those of its filters, as for inputs of equal variance without correlation; means
    and variances are those of its batch normalisation, or of the filters. An error counts by what batch normalisation
    makes of it, relative to the layer's whole.
    """
    assert isinstance(layer.kind, Convolutional)
    filters = np.array(weights.read(layer, "weights"), np.float64)
    filters = filters.reshape(*filters.shape[:2], -1)
    rows = filters.reshape(len(filters), -1)
    covariance = rows @ rows.T
    mean, slope = np.zeros(len(rows)), np.ones(len(rows))
    if layer.is_normalised:
        mean, variance = (np.array(weights.read(layer, f"rolling_{name}"), np.float64) for name in ("mean", "variance"))
        deviation = np.sqrt(np.maximum(variance, 0) + BN_EPSILON)
        scale = deviation / np.sqrt(np.maximum(covariance.diagonal(), np.finfo(np.float32).tiny))
        covariance *= np.outer(scale, scale)
        slope = np.array(weights.read(layer, "scales"), np.float64) / deviation
    whole = float(covariance.diagonal() @ slope**2) or 1.0
    return Moments(filters, covariance, mean, np.diag(slope**2 / whole), None)
