"""Cuts a small network by a decision and holds the result against the referee."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from reference import forward, load

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.graph import build_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.decide import decide, rank
from darkprune.selection.settings import Selection
from darkprune.surgery.apply import Cut, constants_of, write_slim
from darkprune.surgery.stand_ins import write_masked
from darkprune.surgery.surgery import Surgery

from .expectation import Expectation, expect, held_outputs
from .networks import Network

#: activations whose mean darkprune computes to 1e-2 only
ROUGH = ("elu", "selu", "hard_mish")
#: relative to a layer's largest value; weights are float32, the forward pass is float64
TOLERANCE = 3e-6


@dataclass(frozen=True)
class Slim:
    """A slim pair."""

    text: str
    weights: bytes


@contextmanager
def opened(text: str, weights: bytes) -> Iterator[NetworkWeights]:
    """Opens a pair that is at hand as text and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.weights"
        path.write_bytes(weights)
        with NetworkWeights(build_graph(parse_cfg(text, "net.cfg")), path) as opened_weights:
            yield opened_weights


def make(weights: NetworkWeights, **chosen: object) -> Surgery:
    """Decides with some settings."""
    settings = Selection(**chosen)  # type: ignore[arg-type]
    return decide(rank(weights, settings), settings)


def slim_of(weights: NetworkWeights, cut: Cut) -> Slim:
    """Carries a cut out."""
    with tempfile.TemporaryFile() as file:
        write_slim(weights, cut, constants_of(weights, cut), file)
        file.seek(0)
        return Slim(str(cut.slim.cfg), file.read())


def masked_of(surgery: Surgery) -> bytes:
    """Writes the masked stand-in."""
    with tempfile.TemporaryFile() as file:
        write_masked(surgery, file)
        file.seek(0)
        return file.read()


def compare(
    expectation: Expectation, expected: list[np.ndarray], found: list[np.ndarray], tolerance: float = TOLERANCE
) -> None:
    """Compares the channels that kept their content, layer by layer."""
    for index, (trace, want, got) in enumerate(zip(expectation.traced, expected, found, strict=True)):
        if want.ndim == 3 and len(trace.gone) == len(want):
            carriers = (trace.gone & ~trace.removed)[~trace.removed]
            assert len(got) == len(carriers), f"layer {index}"
            want, got = want[~trace.gone], got[~carriers]
        if want.size == 0:
            continue
        scale = max(0.1, np.abs(want).max())
        worst = np.abs(want - got).max() / scale
        assert worst <= tolerance, f"layer {index}: {worst:.2e} of {scale:.3g}"


def check(network: Network, chosen: Selection, tolerance: float = TOLERANCE) -> Surgery:
    """Prunes a network and compares the slim one with what the plan means, and with the masked stand-in."""
    if any(f"activation={name}" in network.text for name in ROUGH):
        chosen = replace(chosen, constant="beta")
    with opened(network.text, network.weights) as weights:
        decision = decide(rank(weights, chosen), chosen)
        slim, masked = slim_of(weights, decision.cut), masked_of(decision)
    image, original = network.image, load(network.text, network.weights)
    expectation = expect(original, decision.plan.layers, image, chosen.compensate, chosen.constant)
    found = forward(load(slim.text, slim.weights), image)
    compare(expectation, expectation.outputs, found, tolerance)
    compare(expectation, forward(load(network.text, masked), image), found, tolerance)
    if chosen.compensate != "none" and expectation.exact:
        compare(expectation, held_outputs(original, expectation, image), found, tolerance)
    return decision
