"""The cut against the referee, on random networks of all kinds."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

import numpy as np
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from reference import forward, load

from darkprune.selection.decide import decide, rank
from darkprune.selection.settings import Selection
from darkprune.surgery.stand_ins import write_held

from .cutting import ROUGH, check, opened
from .expectation import trace
from .networks import Draw, Network, networks


@st.composite
def all_settings(draw: Draw) -> Selection:
    """Every way of choosing channels and of standing in for them."""

    def pick(*values: object) -> object:
        return draw(st.sampled_from(values))

    return Selection(
        ratio=pick(0.5, 0.7, 0.3, 0.9, 0.1),
        allocation=pick("uniform", "global", "proportional"),
        merge=pick("vote", "any", "all", "mean", "max"),
        criterion=pick("bn_gamma", "bn_gamma", "l1", "l2"),
        compensate=pick("carrier", "fold", "carrier", "none"),
        constant=pick("mean", "beta"),
        round_to=pick(1, 1, 2, 4, 3),
        min_channels=pick(1, 2, 1, 3, 1, 8),
        exclude=pick((), (), (), (0,)),
    )


SEARCH = settings(
    max_examples=int(os.environ.get("DARKPRUNE_EXAMPLES", 250)),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@SEARCH
@given(networks(), all_settings())
def test_slim_network_computes_what_the_plan_means(network: Network, chosen: Selection) -> None:
    decision = check(network, chosen)
    event("nothing removed" if decision.cut.keep.all() else "removed")
    event(f"carriers: {bool(decision.cut.carriers.any())}")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), all_settings())
def test_held_stand_in_is_the_original_with_its_channels_held(network: Network, chosen: Selection) -> None:
    """What `verify` measures the compensation by: nothing but the producers' channels is changed."""
    assume("share_index" not in network.text)  # two activations cannot be held by one β
    if any(f"activation={name}" in network.text for name in ROUGH):
        chosen = replace(chosen, constant="beta")
    with opened(network.text, network.weights) as weights:
        decision = decide(rank(weights, chosen), chosen)
        with tempfile.TemporaryFile() as file:
            write_held(decision, file)
            file.seek(0)
            held = file.read()
    original = load(network.text, network.weights)
    traced = trace(original, decision.plan.layers, chosen.constant)
    own = set(decision.plan.layers)
    if chosen.constant == "mean":  # depthwise layers know by their own statistics what a channel is
        own |= {layer.index for layer in original.layers if layer.kind == "convolutional" and "scales" in layer.arrays}
    hold = {index: (traced[index].gone, traced[index].constant) for index in own}
    expected = forward(original, network.image, hold=hold)
    for want, got in zip(expected, forward(load(network.text, held), network.image), strict=True):
        assert np.abs(want - got).max() <= 1e-5 * max(0.1, np.abs(want).max())
