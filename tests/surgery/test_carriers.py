"""Carriers: where they are needed, which are chosen, what they look like in the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference import load

from darkprune.selection.settings import Selection
from darkprune.surgery.apply import constants_of
from darkprune.surgery.result import _inexact
from darkprune.surgery.surgery import Surgery

from .cutting import check, make, opened, slim_of
from .networks import Network, cfg, gammas, tensors_of

THICK = "convolutional size=3 pad=1 batch_normalize=1 activation={} filters={}"
THIN = "convolutional size=1 pad=1 batch_normalize=1 activation={} filters={}"
UNPADDED = "convolutional size=3 batch_normalize=1 activation={} filters={}"


def decided(text: str, **chosen: object) -> Surgery:
    with opened(text, tensors_of(text, {})) as pair:
        return make(pair, **{"ratio": 0.5, "min_channels": 1, "compensate": "carrier", **chosen})


def carriers(decision: Surgery) -> dict[int, int]:
    return {layer: len(entry[2]) for layer, entry in decision.plan.layers.items()}


def test_one_carrier_for_a_padded_consumer() -> None:
    text = cfg(THICK.format("leaky", 8), THICK.format("leaky", 4), "convolutional filters=2 size=1")
    decision = decided(text)
    assert carriers(decision) == {0: 1, 1: 0}
    channels, kept, _ = decision.plan.layers[0]
    assert (channels, len(kept)) == (8, 5)  # it counts in the width


def test_any_channel_may_carry_the_first_of_all_too() -> None:
    text = cfg(THICK.format("leaky", 4), THICK.format("leaky", 2), "convolutional filters=2 size=1")
    for weakest in range(4):
        with opened(text, gammas(text, _0=[0.1 if channel == weakest else 1 for channel in range(4)])) as pair:
            plan = make(pair, ratio=0.25, min_channels=1, compensate="carrier", allocation="uniform").plan
        assert plan.layers[0] == (4, (0, 1, 2, 3), (weakest,))


@pytest.mark.parametrize("consumer", [THIN, UNPADDED])
def test_none_where_nothing_pads(consumer: str) -> None:
    text = cfg(THICK.format("leaky", 8), consumer.format("leaky", 4), "convolutional filters=2 size=1")
    assert not any(carriers(decided(text)).values())


def test_none_where_the_constants_are_zero() -> None:
    text = cfg(THICK.format("relu", 8), THICK.format("leaky", 2))
    with opened(text, tensors_of(text, {(0, "biases"): -1})) as pair:
        settings = {"ratio": 0.5, "min_channels": 1, "compensate": "carrier"}
        assert not any(carriers(make(pair, constant="beta", **settings)).values())
        assert any(carriers(make(pair, constant="mean", **settings)).values())


def test_none_without_compensation_by_carriers() -> None:
    text = cfg(THICK.format("leaky", 8), THICK.format("leaky", 2))
    assert not any(carriers(decided(text, compensate="fold")).values())
    assert not any(carriers(decided(text, compensate="none")).values())


def test_one_for_all_consumers_of_a_producer_and_one_per_member() -> None:
    text = cfg(
        THICK.format("leaky", 8), THICK.format("mish", 8), "shortcut from=-2", THICK.format("leaky", 4),
        "route layers=0", THICK.format("leaky", 4), "route layers=3,5", "convolutional filters=2 size=1",
    )  # fmt: skip
    decision = decided(text)
    assert carriers(decision) == {0: 1, 1: 1, 3: 0, 5: 0}
    assert decision.plan.layers[0][2] == decision.plan.layers[1][2]


def test_one_per_block_of_a_grouped_consumer() -> None:
    grouped = "convolutional size=3 pad=1 groups=2 filters=8 activation=leaky"
    decision = decided(cfg(THICK.format("leaky", 12), grouped, "convolutional filters=2 size=1"))
    chosen = decision.plan.layers[0][2]
    assert [sum(position // 6 == block for position in chosen) for block in (0, 1)] == [1, 1]


def test_rounding_makes_room_for_a_carrier() -> None:
    text = cfg(THICK.format("leaky", 16), THICK.format("leaky", 2))
    plain, rounded = decided(text, ratio=0.3), decided(text, ratio=0.3, round_to=4)
    assert len(plain.plan.layers[0][1]) == 12  # 11 and the carrier
    assert len(rounded.plan.layers[0][1]) == 12  # the carrier takes the place that rounding keeps anyway
    assert carriers(rounded) == {0: 1}


@pytest.mark.parametrize("activation", ["relu6", "stair"])
def test_activations_that_hold_nothing_are_folded(activation: str) -> None:
    text = cfg(THICK.format(activation, 8), THICK.format("leaky", 4), THICK.format("leaky", 2))
    decision = decided(text)
    assert carriers(decision) == {0: 0, 1: 1}
    with opened(text, tensors_of(text, {})) as pair:
        assert _inexact(decision.cut, constants_of(pair, decision.cut)) == [1]  # the report says where
        folded = make(pair, ratio=0.5, min_channels=1)
        assert _inexact(folded.cut, constants_of(pair, folded.cut)) == [1, 2]


def test_a_carrier_in_the_file() -> None:
    text = cfg(THICK.format("mish", 6), THICK.format("logistic", 6), THICK.format("leaky", 2))
    with opened(text, tensors_of(text, {}, seed=2)) as pair:
        decision = make(pair, ratio=0.5, min_channels=1, compensate="carrier")
        slim = slim_of(pair, decision.cut)
    network = load(slim.text, slim.weights)
    for layer, shift in ((0, 1.0), (1, 0.0)):
        _, kept, (carrier,) = decision.plan.layers[layer]
        arrays, slot = network.layers[layer].arrays, kept.index(carrier)
        assert arrays["scales"][slot] == 0
        assert arrays["biases"][slot] == shift
        assert not arrays["weights"][slot].any()
        assert network.layers[layer + 1].arrays["weights"][:, slot].any()


def test_the_strongest_of_several_carriers_is_used() -> None:
    """A weak one takes large weights for the same sum, which costs precision and ruins the scale of INT8."""
    text = cfg(
        THICK.format("logistic", 4), "route layers=-1", THICK.format("leaky", 4), "route layers=0,2",
        THICK.format("leaky", 3), "convolutional filters=2 size=1",
    )  # fmt: skip
    with opened(text, tensors_of(text, {}, seed=3)) as pair:
        decision = make(pair, ratio=0.5, min_channels=1, compensate="carrier")
        cut = decision.cut
        keep, roles = cut.keep.copy(), np.zeros_like(cut.carriers)
        for layer in (0, 2):  # channel 0 of both carries, channel 1 goes
            classes = cut.channels.of_layer[layer]
            keep[classes] = True
            keep[classes[1]] = False
            roles[classes[0]] = True
        slim = slim_of(pair, replace(cut, keep=keep, carriers=roles))
    filters = load(slim.text, slim.weights).layers[4].arrays["weights"]
    assert not filters[:, 0].any()  # the logistic one holds 0.5
    assert filters[:, 3].all()  # the leaky one 1


def test_depthwise_layers_hold_the_carrier_up() -> None:
    depthwise = "convolutional size=3 pad=1 groups=8 filters=8 batch_normalize=1 activation=relu"
    text = cfg(THIN.format("leaky", 8), depthwise, THICK.format("leaky", 4), "convolutional filters=2 size=1")
    with opened(text, tensors_of(text, {}, seed=2)) as pair:
        # at its border a depthwise layer does not make the same of a constant that comes in: no carrier can mend that
        passing = make(pair, ratio=0.5, min_channels=1, compensate="carrier", constant="beta")
        assert _inexact(passing.cut, constants_of(pair, passing.cut)) == [1]
        decision = make(pair, ratio=0.5, min_channels=1, compensate="carrier")
        assert _inexact(decision.cut, constants_of(pair, decision.cut)) == []
        slim = slim_of(pair, decision.cut)
    _, kept, (carrier,) = decision.plan.layers[0]
    arrays = load(slim.text, slim.weights).layers[1].arrays
    assert not arrays["weights"][kept.index(carrier)].any()
    assert arrays["scales"][kept.index(carrier)] == 0
    assert arrays["biases"][kept.index(carrier)] == 1


def test_a_carrier_of_which_nothing_is_left_is_none() -> None:
    """κ ≈ 0 at the consumer's tap: folded, and the report says so."""
    text = cfg(
        THICK.format("linear", 8), "crop crop_height=8 crop_width=8", "upsample stride=2 scale=0",
        THICK.format("leaky", 4), THICK.format("leaky", 2),
    )  # fmt: skip
    decision = check(Network(text, 1, False), Selection(ratio=0.5, min_channels=1, compensate="carrier"))
    assert carriers(decision) == {0: 0, 3: 1}


def test_one_carrier_on_several_paths() -> None:
    """One consumer reads it as it is, another behind an adjustment, an activation and a weighted addition."""
    text = cfg(
        THICK.format("linear", 8), THICK.format("leaky", 4), "route layers=0", "crop crop_height=8 crop_width=8",
        "activation activation=leaky", "shortcut from=-3 weights_type=per_feature weights_normalization=relu",
        THICK.format("leaky", 4), "route layers=1,6", THICK.format("leaky", 2),
    )  # fmt: skip
    for seed in range(4):
        decision = check(Network(text, seed, False), Selection(ratio=0.5, min_channels=1, compensate="carrier"))
        assert carriers(decision)[0] == 1


def test_carriers_never_stand_in_for_kept_channels() -> None:
    text = cfg(THICK.format("leaky", 16), THICK.format("leaky", 16), THICK.format("leaky", 2))
    for ratio in np.linspace(0, 0.9, 7):
        decision = decided(text, ratio=float(ratio))
        assert not (decision.cut.carriers & ~decision.cut.keep).any()
        for _, kept, chosen in decision.plan.layers.values():
            assert set(chosen) <= set(kept)
            assert len(kept) > len(chosen)
