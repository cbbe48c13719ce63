"""Similarity: moments from filters, choice, replacement in every consumer, borders, plans, combination."""

from __future__ import annotations

import io
import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ReferenceNetwork, forward, load, random_weights

from darkprune.cli.main import main
from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import PlanError, UsageError
from darkprune.graph.channels import ChannelMap, map_channels
from darkprune.graph.graph import build_graph, read_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.activations import activate
from darkprune.selection.decide import decide, rank
from darkprune.selection.filter_moments import Moments, filter_moments
from darkprune.selection.settings import Selection
from darkprune.surgery.plan import Plan
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.replaced_channels import Tap, with_similar
from darkprune.surgery.replay import replay
from tests.assets import CHECKPOINTS, needs_assets


def conv(filters: int, size: int = 3, activation: str = "leaky", groups: int = 1) -> str:
    return (
        f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\nstride=1\npad=1\ngroups={groups}\n"
        f"activation={activation}\n\n"
    )


def net(*sections: str, size: int = 9) -> str:
    return f"[net]\nwidth={size}\nheight={size}\nchannels=3\n\n" + "".join(sections)


def encode(network: ReferenceNetwork) -> bytes:
    arrays = [layer.arrays[name] for layer in network.layers for name, _ in layer.tensors]
    return struct.pack("<3iQ", 0, 2, 5, 0) + b"".join(a.astype("<f4").tobytes() for a in arrays)


def double(network: ReferenceNetwork, layer: int, i: int, j: int, gain: float = 1.0, shift: float = 0.0) -> None:
    """Makes channel i of a linear layer gain·j + shift (gain 1, shift 0: of any layer)."""
    a = network.layers[layer].arrays
    for name in ("weights", "rolling_mean", "rolling_variance"):
        a[name][i] = a[name][j]
    a["scales"][i] = gain * a["scales"][j]
    a["biases"][i] = gain * a["biases"][j] + shift


def slim_of(text: str, raw: bytes, chosen: Selection) -> tuple[ReferenceNetwork, Plan]:
    with opened(text, raw) as (weights, _):
        decision = decide(rank(weights, chosen), chosen)
        file = io.BytesIO()
        decision.write_weights(file)
        again = replay(weights, decision.plan, ("", ""))
        assert np.array_equal(again.cut.keep, decision.cut.keep)
    return load(str(decision.graph.cfg), file.getvalue()), decision.plan


@contextmanager
def opened(text: str, raw: bytes) -> Iterator[tuple[NetworkWeights, ChannelMap]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.weights"
        path.write_bytes(raw)
        with NetworkWeights(build_graph(parse_cfg(text)), path) as weights:
            yield weights, map_channels(weights.graph)


SIMILAR = Selection(similarity=0.999, min_channels=1)
SHORTCUT = "[shortcut]\nfrom={}\nactivation=linear\n\n"
#: text, layers in which a channel is a double of another
CASES = {
    "plain": (net(conv(8), conv(5, 1), conv(4, 1)), [0]),
    "depthwise": (net(conv(8), conv(8, groups=8), conv(4)), [0, 1]),
    "two filters per channel": (net(conv(6), conv(12, groups=6), conv(4)), [0, 1]),
    "pool, upsample": (net(conv(8), "[maxpool]\nsize=2\nstride=2\n\n", "[upsample]\nstride=2\n\n", conv(4)), [0]),
    "averages": (
        net(conv(8), "[local_avgpool]\nsize=2\nstride=2\n\n", "[dropout]\n\n[empty]\n\n[avgpool]\n\n", conv(4, 1)),
        [0],
    ),
    "shortcut": (net(conv(8), conv(6), conv(8), SHORTCUT.format(-3), conv(4), conv(3)), [0, 2]),
    "concatenation": (net(conv(8), conv(6), "[route]\nlayers=-1,0\n\n", conv(5), conv(4)), [0]),
    "twice": (
        net(conv(8), conv(8), SHORTCUT.format(-2), "[route]\nlayers=-1,0\n\n", conv(4), conv(3)),
        [0, 1],
    ),
    "grouped consumer": (net(conv(8), conv(6, groups=2), conv(4)), [0]),
    "slice": (net(conv(8), "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n\n", conv(4), "[route]\nlayers=0\n\n", conv(3),
                  "[route]\nlayers=-1,-3\n\n", conv(3)), [0]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_doubles_go_without_a_trace(name: str) -> None:
    text, layers = CASES[name]
    network = load(text, random_weights(text, 3))
    doubled = [(1, 0), (6, 5)] if name in ("grouped consumer", "slice") else [(1, 0)]  # blocks stay equal
    if "two" in name:
        double(network, 0, 1, 0)
        for k in (0, 1):
            double(network, 1, 2 + k, k)
    else:
        for layer in layers:
            for i, j in doubled:
                double(network, layer, i, j)
    slim, plan = slim_of(text, encode(network), SIMILAR)
    assert plan.similar
    assert all(len(kept) == width - len(doubled) for width, kept, _ in plan.layers.values())
    random = np.random.default_rng(0)
    image = random.random((3, 9, 9), np.float32)
    np.testing.assert_allclose(forward(slim, image)[-1], forward(network, image)[-1], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("compensate", "size", "exact"), [("fold", 1, True), ("fold", 3, False), ("carrier", 3, True)])
def test_linear_relations_and_borders(compensate: str, size: int, exact: bool) -> None:
    text = net(conv(8, 3, "linear"), conv(5, size), conv(4, 1))
    network = load(text, random_weights(text, 5))
    double(network, 0, 1, 0, -2.0, 0.7)
    double(network, 0, 3, 2, 0.5, -0.4)
    double(network, 0, 4, 0, 1.5, 0.9)
    slim, plan = slim_of(text, encode(network), replace(SIMILAR, compensate=compensate))
    tap = plan.similar[0]
    assert len(tap.channels) == 3
    for i, j, gain, offset in zip(tap.channels, tap.by, tap.gain, tap.offset, strict=True):
        a = network.layers[0].arrays
        assert abs(gain) == pytest.approx(abs(a["scales"][i] / a["scales"][j]), rel=1e-5)
        assert offset == pytest.approx(a["biases"][i] - gain * a["biases"][j], rel=1e-4, abs=1e-5)
    width, kept, carriers = plan.layers[0]
    assert len(kept) == width - 3 + len(carriers)
    assert len(carriers) == (compensate == "carrier")
    image = np.random.default_rng(0).random((3, 9, 9), np.float32)
    difference = np.abs(forward(slim, image)[-1] - forward(network, image)[-1])
    assert difference[:, 3:-3, 3:-3].max() < 1e-5
    assert (difference.max() < 1e-5) == exact


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["leaky", "relu", "mish", "swish", "linear", "logistic", "tanh"]),
    st.floats(-0.99, 0.99),
    st.tuples(st.floats(0.05, 2), st.floats(0.05, 2)),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.booleans(),
)
def test_moments_are_those_of_normal_channels(
    name: str, rho: float, gamma: tuple[float, float], beta: tuple[float, float], negative: bool
) -> None:
    text = net(conv(2, 1, name), conv(1))
    network = load(text, random_weights(text, 0))
    arrays = network.layers[0].arrays
    arrays["weights"][:] = np.array([[1, 0, 0], [rho, np.sqrt(1 - rho**2), 0]]).reshape(2, 3, 1, 1)
    arrays["scales"][:] = np.array(gamma) * (1, -1 if negative else 1)
    arrays["biases"][:] = beta
    with opened(text, encode(network)) as (weights, channels):
        known = filter_moments(weights, channels)(channels.of_layer[0])
    assert known is not None
    (part,) = known[0]
    nodes, w = np.polynomial.hermite_e.hermegauss(101)
    x, y = np.meshgrid(nodes, nodes, indexing="ij")
    weight = np.outer(w, w) / w.sum() ** 2
    scale = arrays["scales"]
    f = activate(name, np.float64(beta[0] + scale[0] * x))
    g = activate(name, np.float64(beta[1] + scale[1] * (rho * x + np.sqrt(1 - rho**2) * y)))
    mean = [(weight * v).sum() for v in (f, g)]
    covariance = (weight * (f - mean[0]) * (g - mean[1])).sum()
    spread = np.sqrt((weight * (f - mean[0]) ** 2).sum() * (weight * (g - mean[1]) ** 2).sum())
    assert part.mean == pytest.approx(mean, abs=0.02 * max(gamma))
    assert part.covariance[0, 1] == pytest.approx(covariance, abs=0.02 * spread)


def test_upsampling_scales_moments() -> None:
    text = net(conv(4), "[upsample]\nstride=2\nscale=3\n\n", conv(2))
    with opened(text, random_weights(text, 0)) as (weights, channels):
        known = filter_moments(weights, channels)(channels.of_layer[0])
    assert known is not None
    (before,), (after,) = known[0], known[1]
    np.testing.assert_allclose(after.mean, 3 * before.mean)
    np.testing.assert_allclose(after.covariance, 9 * before.covariance)


def test_negative_relations_do_not_pass_a_maximum() -> None:
    pool = "[maxpool]\nsize=2\nstride=2\n\n"
    for gain, sections in ((-1.0, 0), (1.0, 1)):
        text = net(conv(8, 3, "linear"), pool, conv(4, 1))
        network = load(text, random_weights(text, 1))
        double(network, 0, 1, 0, gain, 0.3)
        _, plan = slim_of(text, encode(network), SIMILAR)
        assert len(plan.similar) == sections


def test_channels_must_be_alike_wherever_they_are_read() -> None:
    """One reader after a maximum, which a negative relation does not pass, and one that reads them as they are."""
    text = net(conv(8, 3, "linear"), "[maxpool]\nsize=2\nstride=2\n\n", conv(4, 1), "[route]\nlayers=0\n\n", conv(4, 1))
    network = load(text, random_weights(text, 1))
    double(network, 0, 1, 0, -1.0, 0.3)
    _, plan = slim_of(text, encode(network), SIMILAR)
    assert not plan.similar


def test_what_is_not_known_stays() -> None:
    weighted = "[shortcut]\nfrom=-2\nactivation=linear\nweights_type=per_feature\nweights_normalization=relu\n\n"
    for text in (
        net(conv(8), conv(8), weighted, conv(4)),
        net(conv(8).replace("batch_normalize=1\n", ""), conv(4)),
        net(conv(8), "[connected]\noutput=3\nactivation=linear\n\n"),
        net(conv(8), conv(4).replace("groups=1", "groups=1\nflipped=1")),
        net(conv(8), conv(8), "[route]\nlayers=0\n\n", conv(8).replace("groups=1", "groups=1\nshare_index=1")),
    ):
        network = load(text, random_weights(text, 1))
        for layer in network.layers[:2]:
            if layer.kind == "convolutional" and layer.shape[0] == 8:
                for array in layer.arrays.values():
                    array[1] = array[0]
        _, plan = slim_of(text, encode(network), SIMILAR)
        assert not plan.similar
        assert not plan.layers


def test_the_tensors_of_ancient_files_are_not_compared() -> None:
    """Their header says that connected layers are stored inputs first; which convolutions are is not known."""
    text = net(conv(8), conv(4))
    network = load(text, random_weights(text, 2))
    double(network, 0, 1, 0)
    raw = encode(network)
    assert slim_of(text, raw, SIMILAR)[1].similar
    assert not slim_of(text, struct.pack("<3iQ", 1001, 2, 5, 0) + raw[20:], SIMILAR)[1].similar


def test_importance_comes_first_and_excluded_layers_stay() -> None:
    text = net(conv(8), conv(8), conv(4))
    network = load(text, random_weights(text, 2))
    for layer in (0, 1):
        double(network, layer, 1, 0)
    gamma = network.layers[0].arrays["scales"]
    gamma[:2] = 0.01  # both of the pair are unimportant: nobody is left to be replaced
    _, plan = slim_of(text, encode(network), replace(SIMILAR, ratio=0.25, groups="0-0,1-2"))
    assert sorted(plan.similar) == [1]
    _, plan = slim_of(text, encode(network), replace(SIMILAR, exclude=(0, 1)))
    assert not plan.similar


@pytest.mark.parametrize("gains", [(0.01, 2.0), (2.0, 0.01)])
def test_of_two_alike_the_less_important_goes(gains: tuple[float, float]) -> None:
    text = net(conv(8, 1, "linear"), conv(4))
    network = load(text, random_weights(text, 2))
    double(network, 0, 3, 6)
    for channel, gain in zip((3, 6), gains, strict=True):
        for name in ("scales", "biases"):
            network.layers[0].arrays[name][channel] = gain
    _, plan = slim_of(text, encode(network), SIMILAR)
    assert plan.similar[0].channels.tolist() == [3 if gains[0] < gains[1] else 6]
    _, plan = slim_of(text, encode(network), replace(SIMILAR, ratio=0.12, groups="0-0,1-1"))
    assert not plan.similar  # it is gone for its importance already


def tap(channel: int, by: int, gain: float) -> Tap:
    one = np.ones(1)
    return Tap(np.array([channel]), np.array([by]), gain * one, 0 * one, one)


def test_consumers_read_whole_or_in_parts_take_over_what_a_channel_gave() -> None:
    text = net(conv(8), conv(4))
    with opened(text, random_weights(text, 3)) as (weights, _):
        layer = weights.graph[1]
        wanted = np.array(weights.read(layer, "weights"))
        wanted[:, 2] += np.float32(0.5) * wanted[:, 5]
        similar = with_similar(weights, {0: tap(5, 2, 0.5)})
        np.testing.assert_array_equal(similar.read(layer, "weights"), wanted)
        parts = [np.array(rows) for _, rows in similar.chunks(layer, "weights", 1)]
        assert len(parts) > 1
        np.testing.assert_array_equal(np.concatenate(parts), wanted)
        np.testing.assert_array_equal(similar.read(layer, "biases"), weights.read(layer, "biases"))


def test_replacements_stay_within_the_blocks_of_a_grouped_convolution() -> None:
    text = net(conv(8), conv(4, groups=2))
    with opened(text, random_weights(text, 3)) as (weights, _):
        assert with_similar(weights, {0: tap(3, 1, 1.0)}) is not weights
        with pytest.raises(PlanError, match="layer 0 cross the blocks that layer 1 reads"):
            with_similar(weights, {0: tap(5, 1, 1.0)})


def test_limits_hold_afterwards() -> None:
    text = net(conv(16), conv(4))
    network = load(text, random_weights(text, 2))
    for i in range(1, 6):
        double(network, 0, i, 0)
    for chosen, width in ((SIMILAR, 11), (replace(SIMILAR, round_to=4), 12), (replace(SIMILAR, min_channels=14), 14)):
        slim, plan = slim_of(text, encode(network), chosen)
        assert len(plan.layers[0][1]) == width
        assert len(plan.similar[0].channels) == 16 - width
        image = np.random.default_rng(0).random((3, 9, 9), np.float32)
        np.testing.assert_allclose(forward(slim, image)[-1], forward(network, image)[-1], rtol=2e-5, atol=2e-6)


def test_measured_moments_can_take_the_filters_place() -> None:
    """The hook for images: anything that gives means and covariances of the maps that are read."""
    text = net(conv(8), conv(4, 1))
    network = load(text, random_weights(text, 4))
    double(network, 0, 1, 0)
    images = np.random.default_rng(0).random((4, 3, 9, 9), np.float32)
    maps = np.stack([forward(network, image)[0] for image in images])  # (images, channels, h, w)
    values = maps.transpose(1, 0, 2, 3).reshape(8, -1)

    def measured(weights: NetworkWeights, channels: ChannelMap) -> Callable[[np.ndarray], dict[int, list[Moments]]]:
        def moments(classes: np.ndarray) -> dict[int, list[Moments]]:
            own = [int(np.flatnonzero(channels.of_layer[0] == number)[0]) for number in classes]
            return {0: [Moments(np.array(own), values[own].mean(axis=1), np.cov(values[own]))]}

        return moments

    with opened(text, encode(network)) as (weights, _):
        decision = decide(rank(weights, SIMILAR, moments=measured), SIMILAR)
    tap = decision.plan.similar[0]
    assert (tap.gain[0], tap.offset[0]) == pytest.approx((1, 0), abs=1e-5)


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_bad_threshold(threshold: float) -> None:
    text = net(conv(8), conv(4))
    with pytest.raises(UsageError, match="--similarity"):
        slim_of(text, random_weights(text, 0), replace(SIMILAR, similarity=threshold))


def test_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    shortcut = SHORTCUT.format(-3)
    text = net(conv(8), conv(4), conv(8), shortcut, conv(6), conv(8), shortcut, conv(12), conv(3))
    network = load(text, random_weights(text, 6))
    for i in (3, 4):
        double(network, 7, i, 2)
    pair = tmp_path / "net.cfg", tmp_path / "net.weights"
    pair[0].write_text(text)
    pair[1].write_bytes(encode(network))
    names = [str(path) for path in pair]
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ["--units", "1", "--ratio", "0.25", "--similarity", "0.99", "--min-channels", "2", "--constant", "beta"]
    assert main(["prune", *names, *flags, "-o", str(one)]) == 0
    assert "similarity: 2 channels (2 replaced" in capsys.readouterr().out
    report = json.loads((one / "report.json").read_text())
    assert [stage["stage"] for stage in report["stages"]] == ["units", "channels", "similarity"]
    assert report["stages"][-1]["after"] == report["after"]
    assert main(["prune", *names, "--plan", str(one / "plan.json"), "-o", str(two)]) == 0
    assert (one / "net.weights").read_bytes() == (two / "net.weights").read_bytes()
    capsys.readouterr()
    assert main(["verify", *names, str(one / "net.cfg"), str(one / "net.weights"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["numeric"]["worst_layer"]["relative"] < 1e-5

    plan = read_plan(one / "plan.json")
    (layer,) = plan.similar
    tap = plan.similar[layer]
    with NetworkWeights(read_graph(pair[0]), pair[1]) as weights:
        hashes = plan.cfg_sha256, plan.weights_sha256
        width = weights.graph[7].output.c  # before a unit went, its layers were four more
        for by, why in (
            (width, "name channels"),
            (-1, "name channels"),
            (tap.channels, "a replaced channel stays, or"),
        ):
            bad = replace(tap, by=np.full_like(tap.by, by))
            with pytest.raises(PlanError, match=f"replacements at layer {layer}:? {why}"):
                replay(weights, replace(plan, similar={layer: bad}), hashes)
        stays = replace(tap, channels=np.array([tap.by[0], tap.channels[0]]))
        with pytest.raises(PlanError, match="a replaced channel stays, or"):
            replay(weights, replace(plan, similar={layer: stays}), hashes)
        for index in (-1, 99):
            with pytest.raises(PlanError, match=f"replacements at layer {index} name"):
                replay(weights, replace(plan, similar={index: tap}), hashes)


def test_a_bad_tap_is_no_plan(tmp_path: Path) -> None:
    good = {"channels": [1], "by": [0], "a": [1.0], "b": [0.0], "correlation": [1.0]}
    assert Tap.from_json(good).to_json() == good
    for change in ({"a": [1.0, 2.0]}, {"b": [float("nan")]}, {"by": []}):
        with pytest.raises(ValueError, match="lists of a replacement"):
            Tap.from_json({**good, **change})


@needs_assets
def test_real_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    name = "yolo-fastest-1.1_coco"
    pair = [str(CHECKPOINTS / name / f"{name}.{kind}") for kind in ("cfg", "weights")]
    out = tmp_path / "out"
    assert main(["prune", *pair, "--ratio", "0.1", "--similarity", "0.6", "--force", "-o", str(out)]) == 0
    assert main(["verify", *pair, str(out / f"{name}.cfg"), str(out / f"{name}.weights")]) == 0
    unexplained = [1 - value**2 for tap in read_plan(out / "plan.json").similar.values() for value in tap.correlation]
    error = json.loads((out / "report.json").read_text())["stages"][-1]["reconstruction_error"]
    assert error == {"mean": pytest.approx(np.mean(unexplained)), "largest": pytest.approx(max(unexplained))}


@pytest.mark.parametrize("part", [1, 200, 1000])
def test_filters_that_are_read_in_parts(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = net(conv(12), conv(9), conv(4))
    with opened(text, random_weights(text, 0)) as (weights, channels):
        found = filter_moments(weights, channels)
        classes = channels.of_layer[1][np.random.default_rng(0).permutation(9)[:7]]
        whole = found(classes)
        monkeypatch.setattr("darkprune.selection.filter_moments.PART", part)
        parts = found(classes)
    assert whole is not None
    assert parts is not None
    np.testing.assert_allclose(parts[1][0].covariance, whole[1][0].covariance, rtol=1e-12)
    assert np.linalg.matrix_rank(whole[1][0].covariance) == 7
