"""A node of the graph: a section of the cfg with its place, its inputs and its tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from darkprune.layers import Blob, Feature, Kind


@dataclass(frozen=True)
class Layer:
    """A node of the graph.

    Attributes:
        index: darknet's layer number; the first section after `[net]` is 0.
        section: number of its section in the cfg (index + 1).
        line: line of the section's header.
        kind: what the section says.
        sources: indices of the layers it reads, in order of use; INPUT (−1) is the network's input.
        references: layers it points at without reading them.
        inputs: shapes of what it reads.
        output: shape of what it gives.
        blobs: tensors in file order, also where `dontload` keeps them out of a file.
        stored: the blobs that a weights file read by this cfg holds.
    """

    index: int
    section: int
    line: int
    kind: Kind
    sources: tuple[int, ...]
    references: tuple[int, ...]
    inputs: tuple[Feature, ...]
    output: Feature
    blobs: tuple[Blob, ...]
    stored: tuple[Blob, ...]

    @property
    def name(self) -> str:
        """What darkprune calls the layer in tables and messages: its section's usual name."""
        return self.kind.names[0]

    @property
    def place(self) -> str:
        """Its name in messages, with the line in the cfg."""
        return f"layer {self.index} ({self.name}, line {self.line})"

    @property
    def is_depthwise(self) -> bool:
        """Whether every input channel has filters of its own, so that the layer passes channels on."""
        return self.kind.is_depthwise(self.inputs)

    @property
    def is_dense(self) -> bool:
        """Whether the layer makes channels as weighted sums over input channels, of all or of its block."""
        return self.kind.is_dense(self.inputs)

    @property
    def is_normalised(self) -> bool:
        """Whether the weights file holds a batch normalisation for the layer."""
        return any(blob.name == "scales" for blob in self.stored)

    def blob(self, name: str) -> Blob:
        """Returns the declaration of a tensor."""
        return next(blob for blob in self.blobs if blob.name == name)

    @property
    def params(self) -> int:
        """Number of stored floats."""
        return sum(blob.count for blob in self.blobs)

    @property
    def trainable_params(self) -> int:
        """Number of floats that training changes by gradient: without running statistics."""
        return sum(blob.count for blob in self.blobs if blob.trained)

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and connected layers for one image."""
        return self.kind.macs(self.inputs, self.output)

    @property
    def bflops(self) -> float:
        """darknet's own figure, a 32-bit float like its."""
        return float(np.float32(self.kind.bflops(self.inputs, self.output)))
