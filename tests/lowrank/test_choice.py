"""Subspaces and ranks, without images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import PlanError
from darkprune.graph.graph import build_graph
from darkprune.lowrank.directions import Directions, find_directions
from darkprune.lowrank.moments import TAP_CORRELATION, Moments
from darkprune.lowrank.ranks import Choices, choices_of, choose_ranks


def spd(random: np.random.Generator, size: int) -> np.ndarray:
    rows = random.normal(size=(size, size + 2)) * random.uniform(0.1, 3, size)[:, None]
    return np.asarray(rows @ rows.T)


def test_directions_are_the_best_of_their_rank() -> None:
    """No projection of the same rank loses less; the loss is the trace of G and what is left out."""
    random = np.random.default_rng(0)
    covariance, metric = spd(random, 6), spd(random, 6)
    found = find_directions(covariance, metric)
    np.testing.assert_allclose(found.coordinates @ found.basis, np.eye(6), atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(found.basis, axis=0), 1)
    assert found.losses[0] == pytest.approx(np.trace(metric @ covariance))
    assert found.losses[6] == 0

    def loss(kept: np.ndarray) -> float:
        lost = np.eye(6) - kept
        return float(np.trace(metric @ lost @ covariance @ lost.T))

    for rank in range(1, 6):
        part = found.first(rank)
        assert loss(np.float64(part.basis) @ part.coordinates) == pytest.approx(found.losses[rank], rel=1e-4)
        for _ in range(50):
            basis = found.basis[:, :rank] + 0.1 * random.normal(size=(6, rank))
            coordinates = np.linalg.solve(basis.T @ metric @ basis, basis.T @ metric)
            assert loss(basis @ coordinates) >= found.losses[rank] * (1 - 1e-9)


def test_what_has_no_effect_and_what_does_not_vary_goes_first() -> None:
    found = find_directions(np.diag([9.0, 1.0, 1.0, 0.0]), np.diag([0.0, 4.0, 1.0, 4.0]))
    np.testing.assert_allclose(found.losses, [5, 1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(np.abs(found.basis[:, :2]), np.eye(4)[:, 1:3], atol=1e-6)
    zero = find_directions(np.zeros((3, 3)), np.zeros((3, 3)))
    assert np.isfinite(zero.basis).all()
    assert np.isfinite(zero.coordinates).all()
    assert not zero.losses.any()


def test_errors_of_inputs_pass_all_taps() -> None:
    """The metric of inputs against random errors, alike at all taps to the degree that is assumed."""
    random = np.random.default_rng(1)
    filters, effect = random.normal(size=(4, 3, 9)), np.diag(random.uniform(0.5, 2, 4))
    shared = random.normal(size=(200_000, 3, 1))
    own = random.normal(size=(200_000, 3, 9))
    errors = TAP_CORRELATION**0.5 * shared + (1 - TAP_CORRELATION) ** 0.5 * own
    sums = np.einsum("nct,bct->bn", filters, errors)
    inputs = np.eye(3)
    found = Moments(filters, np.eye(4), np.zeros(4), effect, inputs).of_inputs()
    assert found is not None
    assert found.losses[0] == pytest.approx(float((sums**2 @ effect.diagonal()).mean()), rel=0.02)


NET = "[net]\nwidth=12\nheight=8\nchannels=3\n"
CONV = "[convolutional]\nfilters={}\nsize={}\nstride={}\npad=1\nbatch_normalize=1\nactivation=leaky\n"


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_costs_are_those_of_the_written_network(size: int, stride: int) -> None:
    text = NET + CONV.format(24, 3, 1) + CONV.format(40, size, stride)
    layer = build_graph(parse_cfg(text))[1]
    directions = [Directions(np.eye(n), np.eye(n), np.arange(n, -1.0, -1)) for n in (40, 24)]
    found = choices_of(layer, *directions)
    assert (found.inputs[0], found.outputs[0], found.macs[0], found.losses[0]) == (0, 0, layer.macs, 0)
    assert len(found.losses) >= 8
    for number in range(1, len(found.losses)):
        a, b = int(found.inputs[number]), int(found.outputs[number])
        parts = [CONV.format(24, 3, 1)]
        plain = "batch_normalize=1\n"
        if a:
            parts.append(CONV.format(a, 1, 1).replace(plain, ""))
        parts.append(CONV.format(b or 40, size, stride).replace(plain, "" if b else plain))
        if b:
            parts.append(CONV.format(40, 1, 1))
        written = build_graph(parse_cfg(NET + "".join(parts)))
        assert found.macs[number] == sum(part.macs for part in written.layers[1:]) < layer.macs
        before, after = (sum(part.params for part in graph) for graph in (build_graph(parse_cfg(text)), written))
        assert found.params[number] - found.params[0] == after - before < 0
        assert found.losses[number] == (40 - b if b else 0) + (24 - a if a else 0)
    assert size == 3 or not found.inputs.any()
    eights = choices_of(layer, *directions, multiple=8)
    assert not (eights.inputs % 8).any()
    assert not (eights.outputs % 8).any()


def choices(draw: st.DrawFn, count: int) -> Choices:
    costs = np.array([100.0, *draw(st.lists(st.integers(1, 99), min_size=count, max_size=count))])
    losses = np.array([0.0, *draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))])
    none = np.zeros(len(costs), np.int64)
    return Choices(none, none, costs, costs, losses)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_better_choice_within_the_price(data: st.DataObject) -> None:
    """Within the budget; no single change helps; and at most one layer's step worse than the best of all."""
    found = {index: choices(data.draw, 4) for index in range(3)}
    left = data.draw(st.integers(3, 310))
    least = sum(float(part.macs.min()) for part in found.values())
    if least > left:
        with pytest.raises(PlanError, match="factorisation alone"):
            choose_ranks(found, "macs", left)
        return
    chosen = choose_ranks(found, "macs", left)
    cost = sum(found[i].macs[n] for i, n in chosen.items())
    loss = sum(found[i].losses[n] for i, n in chosen.items())
    assert cost <= left
    for index, number in chosen.items():
        fits = found[index].macs - found[index].macs[number] <= left - cost
        assert (found[index].losses[fits] >= found[index].losses[number]).all()
    best = min(
        sum(found[i].losses[n] for i, n in enumerate(way))
        for way in itertools.product(range(5), repeat=3)
        if sum(found[i].macs[n] for i, n in enumerate(way)) <= left
    )
    assert best <= loss <= best + max(part.losses.max() for part in found.values())
    if left >= 300:
        assert loss == 0


def test_bytes_are_counted_as_bytes() -> None:
    none = np.zeros(2, np.int64)
    found = {0: Choices(none, none, np.array([9.0, 1.0]), np.array([100.0, 30.0]), np.array([0.0, 1.0]))}
    assert choose_ranks(found, "size", 399) == {0: 1}
    assert choose_ranks(found, "size", 400) == {0: 0}
    assert choose_ranks(found, "params", 99) == {0: 1}
