"""Projections of maps: which directions of a map's channels a factorised convolution keeps."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from darkprune.json_types import JsonMapping, JsonObject
from darkprune.layers.base import Floats

Array32 = NDArray[np.float32]

MOST_CHANNELS = 1 << 13  #: a projection needs matrices of channels x channels
INVERSE = 1e-2  #: how far `coordinates @ basis` may be from 1 in a file
_LINE = 120  #: characters of a line of base64


@dataclass(frozen=True, eq=False)
class Projection:
    """A projection of n channels onto d directions: x becomes basis @ (coordinates @ x).

    Attributes:
        basis: (n, d) float32, one direction per column, the most important first.
        coordinates: (d, n) float32: coordinates @ basis = 1.
    """

    basis: Array32
    coordinates: Array32

    @property
    def width(self) -> int:
        """The number of channels, n."""
        return len(self.basis)

    @property
    def rank(self) -> int:
        """The number of directions, d."""
        return len(self.coordinates)

    @cached_property
    def whole(self) -> Projection:
        """The identity of all n channels, whose first d directions are these.

        The others span what the projection takes away.
        """
        basis, coordinates = np.array(self.basis, np.float64), np.array(self.coordinates, np.float64)
        # what coordinates map to 0, as orthonormal columns
        rest = np.linalg.qr(coordinates.T, mode="complete")[0][:, self.rank :]
        others = rest.T - (rest.T @ basis) @ coordinates
        return Projection(
            np.hstack([basis, rest]).astype(np.float32), np.vstack([coordinates, others]).astype(np.float32)
        )

    def to_json(self) -> JsonObject:
        """Returns what a plan holds."""
        return {
            "channels": self.width,
            "rank": self.rank,
            "basis": _encode(self.basis),
            "coordinates": _encode(self.coordinates),
        }

    @classmethod
    def from_json(cls, data: JsonMapping) -> Projection:
        """Reads what `to_json` gives.

        Raises:
            KeyError, TypeError, ValueError: it is damaged, or no projection.
        """
        width, rank = int(data["channels"]), int(data["rank"])
        if not 0 < rank <= width <= MOST_CHANNELS:
            raise ValueError(f"a projection of {width} channels onto {rank}")
        found = cls(_decode(data["basis"], (width, rank)), _decode(data["coordinates"], (rank, width)))
        if not np.abs(np.array(found.coordinates, np.float64) @ found.basis - np.eye(rank)).max() < INVERSE:
            raise ValueError("coordinates and basis of a projection do not belong together")
        return found


@dataclass(frozen=True, eq=False)
class Factors:
    """A convolution as a product: 1x1 c→a, k×k a→b, 1x1 b→n; without one of the two 1x1 where it is None.

    Attributes:
        inputs: projection of the input channels onto a.
        outputs: projection of the sums onto b.
    """

    inputs: Projection | None = None
    outputs: Projection | None = None

    def to_json(self) -> JsonObject:
        """Returns what a plan holds."""
        parts = {"inputs": self.inputs, "outputs": self.outputs}
        return {name: part.to_json() for name, part in parts.items() if part is not None}

    @classmethod
    def from_json(cls, data: JsonMapping) -> Factors:
        """Reads what `to_json` gives.

        Raises:
            KeyError, TypeError, ValueError: it is damaged, or holds no projection.
        """
        parts = {name: Projection.from_json(data[name]) for name in ("inputs", "outputs") if name in data}
        if not parts:
            raise ValueError("factors of a layer without a projection")
        return cls(parts.get("inputs"), parts.get("outputs"))

    def core(self, filters: Floats, *, whole: bool = False) -> Floats:
        """Returns the filters between the two 1x1 convolutions.

        Args:
            filters: (n, c, taps…).
            whole: as if both projections had full rank.

        Returns:
            (b, a, taps…).
        """
        if self.inputs is not None:
            basis = np.array((self.inputs.whole if whole else self.inputs).basis, np.float64)
            filters = np.moveaxis(np.tensordot(filters, basis, (1, 0)), -1, 1)
        if self.outputs is not None:
            coordinates = np.array((self.outputs.whole if whole else self.outputs).coordinates, np.float64)
            filters = np.tensordot(coordinates, filters, 1)
        return filters


def _encode(values: Array32) -> list[str]:
    text = base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")
    return [text[first : first + _LINE] for first in range(0, len(text), _LINE)]


def _decode(lines: list[str], shape: tuple[int, int]) -> Array32:
    raw = base64.b64decode("".join(lines), validate=True)
    if len(raw) != 4 * shape[0] * shape[1]:
        raise ValueError(f"{len(raw)} bytes are not a matrix of {shape[0]}x{shape[1]}")
    values = np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("a projection holds values that are not finite")
    return values
