"""The cut against the referee, on random networks of all kinds."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from darkprune.pruning.prune import PruneSettings

from .cutting import check
from .networks import Draw, Network, networks


@st.composite
def all_settings(draw: Draw) -> PruneSettings:
    """Every way of choosing channels and of standing in for them."""

    def pick(*values: object) -> object:
        return draw(st.sampled_from(values))

    return PruneSettings(
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
def test_slim_network_computes_what_the_plan_means(network: Network, chosen: PruneSettings) -> None:
    decision = check(network, chosen)
    event("nothing removed" if decision.cut.keep.all() else "removed")
    event(f"carriers: {bool(decision.cut.carriers.any())}")
