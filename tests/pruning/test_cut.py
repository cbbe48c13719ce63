"""The cut against the referee, on random networks of all kinds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from reference import forward, load

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.graph import build_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.pruning.apply import constants_of, write_slim
from darkprune.pruning.prune import Decision, PruneSettings, decide, rank
from darkprune.pruning.stand_in import write_held, write_masked

from .expectation import Expectation, expect, held_outputs
from .networks import Network, networks

#: activations whose mean darkprune computes to 1e-2 only
ROUGH = ("elu", "selu", "hard_mish")
NAMES = ("net.cfg", "net.weights")


@dataclass(frozen=True)
class Slim:
    text: str
    weights: bytes


@contextmanager
def opened(network: Network) -> Iterator[tuple[NetworkWeights, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.weights"
        path.write_bytes(network.weights)
        graph = build_graph(parse_cfg(network.text, "net.cfg"))
        with NetworkWeights(graph, path) as weights:
            yield weights, Path(folder)


def cut(weights: NetworkWeights, folder: Path, decision: Decision) -> Slim:
    path = folder / "slim.weights"
    with path.open("wb") as file:
        graph = write_slim(weights, decision.cut, constants_of(weights, decision.cut), file)
    return Slim(str(graph.cfg), path.read_bytes())


@st.composite
def all_settings(draw) -> PruneSettings:
    return PruneSettings(
        ratio=draw(st.sampled_from([0.5, 0.7, 0.3, 0.9, 0.1])),
        allocation=draw(st.sampled_from(["uniform", "global", "proportional"])),
        merge=draw(st.sampled_from(["vote", "any", "all", "mean", "max"])),
        criterion=draw(st.sampled_from(["bn_gamma", "bn_gamma", "l1", "l2"])),
        compensate=draw(st.sampled_from(["carrier", "fold", "carrier", "none"])),
        constant=draw(st.sampled_from(["mean", "beta"])),
        round_to=draw(st.sampled_from([1, 1, 2, 4, 3])),
        min_channels=draw(st.sampled_from([1, 2, 1, 3, 1, 8])),
        exclude=draw(st.sampled_from([(), (), (), (0,), (2,)])),
    )


def compare(expectation: Expectation, expected: list[np.ndarray], found: list[np.ndarray], tolerance: float) -> None:
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


SEARCH = settings(max_examples=int(__import__("os").environ.get("N", 200)), deadline=None, suppress_health_check=list(HealthCheck))


@SEARCH
@given(networks(), all_settings())
def test_slim_network_computes_what_the_plan_means(network: Network, chosen: PruneSettings) -> None:
    if any(f"activation={name}" in network.text for name in ROUGH):
        chosen = replace(chosen, constant="beta")
    with opened(network) as (weights, folder):
        assume(all(i < len(weights.graph) for i in chosen.exclude))
        decision = decide(rank(weights, chosen), chosen, NAMES)
        slim = cut(weights, folder, decision)
        masked = folder / "masked.weights"
        with masked.open("wb") as file:
            write_masked(weights, decision.cut, file)
        masked = masked.read_bytes()
    event("nothing removed" if decision.cut.keep.all() else "removed")
    image = network.image
    original = load(network.text, network.weights)
    expectation = expect(original, decision.plan.layers, image, chosen.compensate, chosen.constant)
    found = forward(load(slim.text, slim.weights), image)
    compare(expectation, expectation.outputs, found, 3e-6)
    compare(expectation, forward(load(network.text, masked), image), found, 3e-6)
    if chosen.compensate != "none" and expectation.exact:
        compare(expectation, held_outputs(original, expectation, image), found, 3e-6)
