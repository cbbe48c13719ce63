"""Budgets: reading them, and meeting them within 1 % with multiples and floors."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import PlanError, UsageError
from darkprune.graph.graph import build_graph
from darkprune.graph.stats import Totals, totals
from darkprune.selection.budget import Budget, parse_budget, solve_ratio
from darkprune.selection.constraints import Limits, settle
from darkprune.selection.decide import decide, rank
from darkprune.selection.reach import refuse_unreachable, uniform_ratio, within_budget
from darkprune.selection.settings import Selection

from .cutting import opened
from .networks import Network, cfg, gammas, networks

TOLERANCE = 0.01  #: what the documents promise
CONV = "convolutional batch_normalize=1 size=3 pad=1 activation=leaky filters={}"
HEAD = "convolutional size=1 activation=linear filters=10"
BEFORE = Totals(1000, 900, 5000, 0.01, 4020)
TOLERANCE = 0.01  # as promised to users, whatever the program says


@pytest.mark.parametrize(
    ("kind", "text", "target"),
    [("params", "0.5", 500), ("params", "0.6k", 600), ("macs", "1", 5000), ("macs", "4k", 4000), ("size", "2kB", 2000),
     ("params", "65%", 650), ("size", "4000B", 4000), ("macs", "1000", 1000)],
)  # fmt: skip
def test_reading(kind: str, text: str, target: float) -> None:
    assert parse_budget(kind, text, BEFORE).target == target


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [("macs", "1.5", "is above 1, so no fraction"), ("macs", "0", "for more than 0"),
     ("macs", "12Q", "'Q' is no unit here; write 12G"), ("macs", "6k", "the network has 5,000"),
     ("size", "2M", "write 90MB"), ("size", "100", "or 90MB"), ("params", "-1", "write a fraction (0.65)"),
     ("params", "1e9", "write a fraction"), ("params", "nan", "write a fraction"), ("params", "", "write a fraction"),
     ("params", "9" * 400, "the network has 1,000"), ("params", "700", "no unit"), ("size", "5MB", "has 4,020")],
)  # fmt: skip
def test_bad_budgets(kind: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--target-{kind} {text[:30]}")) as caught:
        parse_budget(kind, text, BEFORE)
    assert message in str(caught.value)


def left_of(network_settings: Selection, ranking, budget: Budget) -> float:
    return budget.of(totals(decide(ranking, network_settings).graph))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(2, 5), min_size=2, max_size=3),
    st.floats(0.2, 0.98),
    st.sampled_from(["params", "macs"]),
    st.sampled_from(["uniform", "global"]),
    st.integers(0, 1000),
)
def test_met_wherever_multiples_allow(blocks: list[int], part: float, kind: str, allocation: str, seed: int) -> None:
    """The referee tries all widths that are multiples of 8."""
    widths = [8 * number for number in blocks]
    text = cfg(*(CONV.format(width) for width in widths), HEAD, side=16)
    random = np.random.default_rng(seed)
    scales = {f"_{index}": random.uniform(0.1, 1, width).tolist() for index, width in enumerate(widths)}
    graph = build_graph(parse_cfg(text))
    budget = Budget(kind, part * Budget(kind, 0).of(totals(graph)))

    def would_leave(chosen: tuple[int, ...]) -> float:
        changed = cfg(*(CONV.format(width) for width in chosen), HEAD, side=16)
        return budget.of(totals(build_graph(parse_cfg(changed))))

    nearest = min(
        abs(would_leave(chosen) / budget.target - 1) for chosen in product(*(range(8, w + 1, 8) for w in widths))
    )
    chosen = Selection(round_to=8, allocation=allocation)
    with opened(text, gammas(text, **scales)) as weights:
        ranking = rank(weights, chosen)
        if nearest > TOLERANCE:
            with pytest.raises(PlanError, match="cannot be met"):
                decide(ranking, within_budget(ranking, chosen, budget))
            return
        met = within_budget(ranking, chosen, budget)
        decision = decide(ranking, met)
        assert abs(left_of(met, ranking, budget) / budget.target - 1) <= TOLERANCE
    for index, width in enumerate(widths):
        kept = decision.plan.layers.get(index, (width, tuple(range(width)), ()))[1]
        assert len(kept) % 8 == 0
        # within a layer what is kept is dearer than what goes
        strength = np.array(scales[f"_{index}"])
        gone = np.delete(strength, list(kept))
        assert not len(gone) or gone.max() <= strength[list(kept)].min() + 1e-6


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.floats(0.5, 0.95), st.sampled_from(["params", "macs"]), st.sampled_from([1, 4]), st.booleans())
def test_any_network(network: Network, part: float, kind: str, round_to: int, carriers: bool) -> None:
    """A budget is met within 1 %, or refused; floors, multiples and equal blocks hold."""
    chosen = Selection(round_to=round_to, min_channels=2, compensate="carrier" if carriers else "fold")
    with opened(network.text, network.weights) as weights:
        budget = Budget(kind, part * Budget(kind, 0).of(totals(weights.graph)))
        assume(budget.target)
        ranking = rank(weights, chosen)
        try:
            met = within_budget(ranking, chosen, budget)
            decision = decide(ranking, met)
        except PlanError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            assert re.search("cannot be met( within 1 %: nearest is|: with every layer at its floor)", refusal)
            return
        assert abs(left_of(met, ranking, budget) / budget.target - 1) <= TOLERANCE
    keep = decision.cut.keep
    again = settle(ranking.channels, keep, np.zeros(len(keep)), Limits(2, round_to))
    assert (again.keep == keep).all()
    assert ranking.channels.free[~keep].all()


@pytest.mark.parametrize("off", [-0.015, -0.009, 0.009, 0.015])
def test_met_within_one_percent_and_not_beyond(off: float) -> None:
    text = cfg(CONV.format(16), HEAD)
    chosen = Selection(round_to=8)
    with opened(text, gammas(text)) as weights:
        ranking = rank(weights, chosen)
        half = totals(decide(ranking, replace(chosen, ratio=0.5)).graph).params  # 16 or 8 channels: nothing between
        budget = Budget("params", half / (1 + off))
        if abs(off) > 0.01:
            with pytest.raises(PlanError, match=f"cannot be met.*{half:,}"):
                decide(ranking, within_budget(ranking, chosen, budget))
        else:
            assert totals(decide(ranking, within_budget(ranking, chosen, budget)).graph).params == half


@pytest.mark.parametrize(
    ("target", "refusal"),
    [
        (250, ""),
        (706, ""),  # 0.85 % above what the first step leaves
        (694, ""),
        (710, "the budget of 710 (params) cannot be met within 1 %: nearest is 700 (--ratio 0."),
        (690, "the budget of 690 (params) cannot be met within 1 %: nearest is 700 (--ratio 0."),
        (99.5, ""),
        (90, "the budget of 90 (params) cannot be met: with every layer at its floor 100 remain"),
    ],
)
def test_the_ratio_that_leaves_a_budget(target: float, refusal: str) -> None:
    """Of a network that loses nothing up to 0.3, a step there, one at 0.5, and from 0.9 on nothing more."""

    def measure(ratio: float) -> Totals:
        left = 1000 if ratio < 0.3 else 700 if ratio < 0.5 else round(1000 * max(0.1, 1 - ratio))
        return replace(BEFORE, params=left)

    budget = Budget("params", target)
    if refusal:
        with pytest.raises(PlanError, match=re.escape(refusal)):
            solve_ratio(budget, measure, BEFORE)
    else:
        assert abs(measure(solve_ratio(budget, measure, BEFORE)).params / target - 1) <= TOLERANCE


def test_the_ratio_alike_in_all_groups_meets_a_budget() -> None:
    text = cfg(CONV.format(400), CONV.format(300), HEAD)
    with opened(text, gammas(text, _0=np.linspace(1, 2, 400).tolist(), _1=np.linspace(1, 3, 300).tolist())) as weights:
        budget = Budget("params", 0.6 * Budget("params", 0).of(totals(weights.graph)))
        asked = Selection(criterion="surgeon", allocation="sensitivity", similarity=0.5)  # all of which takes images
        ratio = uniform_ratio(weights, asked, budget)
        by_gamma = Selection(ratio=ratio, allocation="uniform")
        assert abs(left_of(by_gamma, rank(weights, by_gamma), budget) / budget.target - 1) <= TOLERANCE


def test_what_stands_in_the_way() -> None:
    text = cfg(CONV.format(64), CONV.format(64), HEAD)
    chosen = Selection(min_channels=48)
    with opened(text, gammas(text)) as weights:
        whole = Budget("params", 0).of(totals(weights.graph))
        for settings_, message in (
            (chosen, "; --min-channels stands in the way"),
            (Selection(min_channels=8, round_to=64), "; --round-to stands in the way"),
            (Selection(exclude=(0, 1)), "; without --min-channels and --round-to it would be"),
        ):
            with pytest.raises(PlanError, match="cannot be met: with every layer at its floor") as caught:
                within_budget(rank(weights, settings_), settings_, Budget("params", 0.2 * whole))
            assert message in str(caught.value)
            with pytest.raises(PlanError, match="cannot be met") as early:
                refuse_unreachable(weights, replace(settings_, criterion="surgeon"), Budget("params", 0.2 * whole))
            assert str(early.value) == str(caught.value)  # said before anything is scored
            refuse_unreachable(weights, settings_, Budget("params", 0.999 * whole))
        with pytest.raises(PlanError, match="without --min-channels and --round-to it would be"):
            refuse_unreachable(weights, Selection(exclude=(0, 1)), Budget("params", 0.7 * whole))
        coarse = Selection(round_to=32)
        ranking = rank(weights, coarse)
        # 31·a + (4 + 9·a)·b + 10·(1 + b) floats with a and b filters of 64 or 32
        steps = "|".join(f"{step:,}" for step in (39754 - 20874, 39754 - 20330, 20874 - 10666, 20330 - 10666))
        message = rf"nearest is 39,754; the smallest step is ({steps}) with --round-to 32"
        with pytest.raises(PlanError, match=message):
            decide(ranking, within_budget(ranking, coarse, Budget("params", 0.9 * whole)))
