"""What a pruned network should compute, worked out without darkprune: the referee of the cut.

Takes from a plan only which channels of which layers stay and which are carriers. From there on everything is derived
anew: where a removed channel comes out at each layer, what constant it leaves there, and what its consumers make of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from reference import ReferenceLayer, ReferenceNetwork, forward
from reference import arithmetic as ar

Kept = Mapping[int, tuple[int, tuple[int, ...], tuple[int, ...]]]
EPS = 1e-5
#: where some activation has a kink
KINKS = (-4.0, -2.0, -1.0, 0.0, 1.0, 4.0, 6.0)
#: constants for which a carrier can be had
CARRIED = {"linear", "relu", "leaky", "revleaky", "relie", "logistic", "tanh", "mish", "swish", "gelu", "elu", "selu",
           "hardtan", "loggy", "ramp", "lhtan", "plse", "hard_mish"}  # fmt: skip


@cache
def _panel() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(12)


def mean_activation(name: str, scale: float, shift: float) -> float:
    """E[act(scale·z + shift)] by Gauss-Legendre panels that end at the kinks."""
    scale = abs(scale)
    if scale < 1e-12:
        return float(ar.activate(np.array([shift]), name)[0])
    edges = np.concatenate([np.linspace(-9, 9, 91), (np.array(KINKS) - shift) / scale])
    edges = np.unique(edges[np.abs(edges) <= 9])
    nodes, weights = _panel()
    half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    z = middle + half * nodes
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
    values = ar.activate((shift + scale * z).reshape(1, -1), name).reshape(z.shape)
    return float((values * density * half * weights).sum())


@dataclass
class Traced:
    """A layer's channels.

    Attributes:
        removed: channels that are not in the slim network.
        gone: those and the carriers: channels that lost their content.
        constant: what takes the content's place.
        kappa: value of a carrier; 0 elsewhere.
        held: whether the layer has to be held at the constants, because it does not give them by itself.
    """

    removed: np.ndarray
    gone: np.ndarray
    constant: np.ndarray
    kappa: np.ndarray
    held: bool = False


@dataclass
class Expectation:
    """What to compare a slim network with.

    Attributes:
        traced: per layer.
        outputs: every layer's output of the network that the slim one should equal, at full width.
        exact: whether that is the original with gone channels held at their constants, and nothing else.
        folded_borders: padding convolutions (and blocks) at which a constant ≠ 0 was folded.
    """

    traced: list[Traced]
    outputs: list[np.ndarray]
    folded_borders: list[tuple[int, int]]

    @property
    def exact(self) -> bool:
        return not self.folded_borders


def expect(network: ReferenceNetwork, kept: Kept, image: np.ndarray, compensate: str, constant: str) -> Expectation:
    """Works out what the slim network should compute on an image."""
    traced = trace(network, kept, constant)
    changed = copy.deepcopy(network)
    for old, new in zip(network.layers, changed.layers, strict=True):
        new.arrays = {name: array.astype(np.float64) for name, array in old.arrays.items()}
    folded = []
    for layer in changed.layers:
        folded += _consume(layer, traced, compensate)
    hold = {
        index: (t.gone, t.constant)
        for index, t in enumerate(traced)
        if t.held and t.gone.any() and compensate != "none"
    }
    return Expectation(traced, forward(changed, image, eps=EPS, hold=hold), folded)


def trace(network: ReferenceNetwork, kept: Kept, constant: str) -> list[Traced]:
    """Follows the channels that a plan removes through the network."""
    traced: list[Traced] = []
    for layer in network.layers:
        traced.append(_trace(network, layer, traced, kept, constant))
    return traced


def held_outputs(network: ReferenceNetwork, expectation: Expectation, image: np.ndarray) -> list[np.ndarray]:
    """Runs the unchanged original with the gone channels held at their constants."""
    hold = {i: (t.gone, t.constant) for i, t in enumerate(expectation.traced) if t.held and t.gone.any()}
    return forward(network, image, eps=EPS, hold=hold)


def _consume(layer: ReferenceLayer, traced: list[Traced], compensate: str) -> list[tuple[int, int]]:
    """Takes the gone inputs out of a layer's filters and adds their constants to the sum, unless a carrier serves."""
    if layer.kind not in ("convolutional", "connected") or layer.sources[0] < 0 or not layer.tensors:
        return []
    given = traced[layer.sources[0]]
    if not given.gone.any():
        return []
    weights = layer.arrays["weights"]
    if layer.kind == "connected":
        columns = weights.reshape(len(weights), len(given.gone), -1)
        offset = (columns * given.constant[:, None])[:, given.gone].sum(axis=(1, 2))
        columns[:, given.gone] = 0
        _add(layer, offset if compensate != "none" else 0 * offset, slice(None))
        return []
    groups, padding = layer.resolved["groups"], layer.resolved["padding"]
    if groups == len(given.gone) > 1:
        return []
    folded = []
    inputs, filters = len(given.gone) // groups, len(weights) // groups
    for block in range(groups):
        part = slice(block * inputs, (block + 1) * inputs)
        rows = slice(block * filters, (block + 1) * filters)
        gone, values = given.gone[part], given.constant[part]
        carried = padding > 0 and compensate == "carrier" and (np.abs(given.kappa[part]) > 1e-6).any()
        if carried or not gone.any():
            continue
        offset = np.einsum("c,rcyx->r", values * gone, weights[rows])
        weights[rows, gone] = 0
        _add(layer, offset if compensate != "none" else 0 * offset, rows)
        if padding > 0 and (values[gone] != 0).any():
            folded.append((layer.index, block))
    return folded


def _add(layer: ReferenceLayer, offset: np.ndarray, rows: slice) -> None:
    if "rolling_mean" in layer.arrays:
        layer.arrays["rolling_mean"][rows] -= offset
    else:
        layer.arrays["biases"][rows] += offset


def _trace(network: ReferenceNetwork, layer: ReferenceLayer, before: list[Traced], kept: Kept, how: str) -> Traced:
    inputs = [before[source] if source >= 0 else _whole(network.input_shape[0]) for source in layer.sources]
    if layer.index in kept:
        return _produced(layer, kept[layer.index], how)
    if layer.kind == "scale_channels" and layer.options.integer("scale_wh", 0):
        return _scaled_by_place(layer, inputs, network.layers[layer.sources[0]], how)
    rule = RULES.get(layer.kind, _untouched)
    return rule(layer, inputs, how)


def _whole(channels: int) -> Traced:
    no = np.zeros(channels, bool)
    return Traced(no, no, np.zeros(channels), np.zeros(channels))


def _untouched(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    """A layer with no rule: nothing that it reads may be gone."""
    assert not any(given.gone.any() for given in inputs), f"layer {layer.index} [{layer.kind}] lost inputs"
    return _whole(layer.shape[0])


def _activation(layer: ReferenceLayer, default: str) -> str:
    return layer.options.text("activation", default)


def _own_constant(layer: ReferenceLayer, how: str) -> np.ndarray:
    name, arrays = _activation(layer, "logistic"), layer.arrays
    if how == "beta" or "scales" not in arrays:
        return ar.activate(np.array(arrays["biases"], np.float64), name)
    pairs = zip(arrays["scales"].tolist(), arrays["biases"].tolist(), strict=True)
    return np.array([mean_activation(name, scale, shift) for scale, shift in pairs])


def _produced(layer: ReferenceLayer, entry: tuple[int, tuple[int, ...], tuple[int, ...]], how: str) -> Traced:
    channels, positions, carriers = entry
    assert channels == layer.shape[0]
    removed, carried = np.ones(channels, bool), np.zeros(channels, bool)
    removed[list(positions)] = False
    carried[list(carriers)] = True
    assert not (removed & carried).any()
    gone = removed | carried
    if layer.kind == "implicit":
        values = np.float64(layer.arrays["weights"][:, 0])
        return Traced(removed, gone, np.where(gone, values, 0), np.where(carried, values, 0), held=True)
    name = _activation(layer, "logistic")
    assert not carried.any() or name in CARRIED
    shift = 0.0 if name == "logistic" else 1.0
    kappa = float(ar.activate(np.array([shift]), name)[0])
    values = _own_constant(layer, how)
    return Traced(removed, gone, np.where(gone, values, 0), np.where(carried, kappa, 0), held=True)


def _convolutional(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    """Depthwise layers pass channels on; others have all of theirs when the plan does not name them."""
    (given,) = inputs
    channels = len(given.gone)
    if not layer.resolved["groups"] == channels > 1:
        return _whole(layer.shape[0])
    times = layer.shape[0] // channels
    name, arrays = _activation(layer, "logistic"), layer.arrays
    sums = np.float64(arrays["weights"]).sum(axis=(1, 2, 3)) * given.constant.repeat(times)
    y = sums + arrays["biases"] if "scales" not in arrays else _normalised(sums, arrays)
    removed, gone = given.removed.repeat(times), given.gone.repeat(times)
    shift = 0.0 if name == "logistic" else 1.0
    kappa = float(ar.activate(np.array([shift]), name)[0]) if name in CARRIED else np.nan
    carried = gone & ~removed
    assert not carried.any() or name in CARRIED
    values = ar.activate(y, name)
    if how == "mean" and "scales" in arrays:  # its statistics are those of what it makes of each channel
        variance = np.float64(arrays["rolling_variance"])
        spread = np.float64(arrays["scales"]) * np.sqrt(variance / (variance + EPS))
        pairs = zip(spread.tolist(), arrays["biases"].tolist(), strict=True)
        values = np.array([mean_activation(name, scale, shift) for scale, shift in pairs])
    constant = np.where(gone, values, 0)
    return Traced(removed, gone, constant, np.where(carried, kappa, 0), held=True)


def _normalised(x: np.ndarray, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return ar.batch_normalise(x, {name: np.float64(array) for name, array in arrays.items()}, EPS)


def _same(layer: ReferenceLayer, inputs: list[Traced], change: object = None, held: bool = False) -> Traced:
    """Applies a function to constants and carriers of the only input."""
    given = inputs[0]
    function = change or (lambda x: x)
    carried = given.gone & ~given.removed
    return Traced(
        given.removed,
        given.gone,
        np.where(given.gone, function(given.constant), 0),
        np.where(carried, function(given.kappa), 0),
        held,
    )


def _pool(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    depth = layer.resolved["depth"]
    if not depth:
        return _same(layer, inputs)
    given = inputs[0]
    if len(given.gone) % depth:
        return _untouched(layer, inputs, how)
    rows = {name: getattr(given, name).reshape(-1, depth) for name in ("removed", "gone", "constant", "kappa")}
    assert (rows["gone"] == rows["gone"][0]).all()
    assert (rows["removed"] == rows["removed"][0]).all()
    return Traced(rows["removed"][0], rows["gone"][0], rows["constant"].max(axis=0), rows["kappa"].max(axis=0))


def _reorganised(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    """Lets the referee move a map whose channels are numbered, and reads off where each went."""
    given, (c, h, w), s = inputs[0], layer.input_shape, layer.resolved["stride"]

    def moved(values: np.ndarray) -> np.ndarray:
        x = np.broadcast_to(np.asarray(values, float)[:, None, None], (c, h, w))
        if layer.kind == "reorg3d":
            y = ar.depth_to_space(np.ascontiguousarray(x).reshape(layer.shape), s) if layer.resolved["reverse"] else (
                ar.space_to_depth(x, s)
            )  # fmt: skip
        elif layer.resolved["reverse"]:
            y = ar.depth_to_space(x, s)
        else:
            y = ar.space_to_depth(np.ascontiguousarray(x).reshape(c // (s * s), h * s, w * s), s)
        return y.reshape(layer.shape[0], -1)

    if layer.kind == "reorg3d" and layer.resolved["reverse"]:
        return _untouched(layer, inputs, how)
    gone, removed, constant, kappa = map(moved, (given.gone, given.removed, given.constant, given.kappa))
    assert (gone == gone[:, :1]).all(), "a reorganisation lost parts of a channel"
    assert (removed == removed[:, :1]).all()
    # forwards an output channel shows one channel (and some of a neighbour where 4 does not divide h), in reverse four
    value = constant.mean(axis=1) if layer.resolved["reverse"] else np.median(constant, axis=1)
    # a carrier is one only where it is the same everywhere
    steady = np.where(np.ptp(kappa, axis=1) < 1e-9, kappa[:, 0], 0)
    gone = gone[:, 0] > 0
    return Traced(removed[:, 0] > 0, gone, np.where(gone, value, 0), steady, held=True)


def _route(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    groups, group = layer.resolved["groups"], layer.resolved["group_id"]
    if any(len(given.gone) % groups for given in inputs):
        return _untouched(layer, inputs, how)
    for given in inputs:
        kept = (~given.removed).reshape(groups, -1).sum(axis=1)
        assert len(set(kept.tolist())) == 1, f"layer {layer.index}: slices keep {kept}"

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(given, name).reshape(groups, -1)[group] for given in inputs])

    return Traced(joined("removed"), joined("gone"), joined("constant"), joined("kappa"))


def _coupled(layer: ReferenceLayer, inputs: list[Traced]) -> None:
    for given in inputs[1:]:
        assert (given.removed == inputs[0].removed).all(), (
            f"layer {layer.index} [{layer.kind}] joins different channels"
        )
        assert (given.gone == inputs[0].gone).all()


def _shortcut(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    if any(len(given.gone) != len(inputs[0].gone) for given in inputs):
        return _untouched(layer, inputs, how)
    _coupled(layer, inputs)
    terms = len(inputs)
    factors = np.ones((terms, 1))
    if "weights" in layer.arrays:
        normalisation = layer.options.text("weights_normalization", "none")
        factors = ar.normalise_weights(np.float64(layer.arrays["weights"]), normalisation).reshape(terms, -1)
    name = _activation(layer, "linear")

    def total(field: str) -> np.ndarray:
        return ar.activate((factors * np.stack([getattr(given, field) for given in inputs])).sum(axis=0), name)

    gone = inputs[0].gone
    if name.startswith("normalize"):
        assert not gone.any()
        return _whole(len(gone))
    carried = gone & ~inputs[0].removed
    return Traced(inputs[0].removed, gone, np.where(gone, total("constant"), 0), np.where(carried, total("kappa"), 0))


def _product(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    factors, source = inputs
    name = _activation(layer, "linear")
    _coupled(layer, inputs)
    carried = source.gone & ~source.removed
    constant = np.where(source.gone, ar.activate(factors.constant * source.constant, name), 0)
    kappa = np.where(carried, ar.activate(factors.kappa * source.kappa, name), 0)
    return Traced(source.removed, source.gone, constant, kappa)


def _scaled_by_place(layer: ReferenceLayer, inputs: list[Traced], factor: ReferenceLayer, how: str) -> Traced:
    """What a removed channel leaves behind depends on the image: the mean of the factor stands in."""
    factors, source = inputs
    assert not factors.gone.any()
    mean = _own_constant(factor, how)[0]
    constant = np.where(source.gone, ar.activate(source.constant * mean, _activation(layer, "linear")), 0)
    return Traced(source.removed, source.gone, constant, np.zeros(len(constant)), held=True)


def _batchnorm(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    return _same(layer, inputs, lambda x: _normalised(x, layer.arrays))


def _upsample(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    stride, scale = layer.resolved["stride"], layer.options.number("scale", 1)
    return _same(layer, inputs, lambda x: x * scale * (1 if stride > 0 else stride**2))


def _activate(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    name = _activation(layer, "linear")
    if name.startswith("normalize"):
        return _untouched(layer, inputs, how)
    return _same(layer, inputs, lambda x: ar.activate(x, name))


def _crop(layer: ReferenceLayer, inputs: list[Traced], how: str) -> Traced:
    return _same(layer, inputs, None if layer.options.integer("noadjust", 0) else lambda x: 2 * x - 1)


RULES = {
    "convolutional": _convolutional,
    "connected": lambda layer, inputs, how: _whole(layer.shape[0]),
    "implicit": lambda layer, inputs, how: _whole(layer.shape[0]),
    "maxpool": _pool,
    "local_avgpool": lambda layer, inputs, how: _same(layer, inputs),
    "avgpool": lambda layer, inputs, how: _same(layer, inputs),
    "dropout": lambda layer, inputs, how: _same(layer, inputs),
    "empty": lambda layer, inputs, how: _same(layer, inputs),
    "upsample": _upsample,
    "reorg": _reorganised,
    "reorg3d": _reorganised,
    "batchnorm": _batchnorm,
    "activation": _activate,
    "crop": _crop,
    "route": _route,
    "shortcut": _shortcut,
    "scale_channels": _product,
    "sam": _product,
}
