"""Random small networks of all kinds that carry channels, as hypothesis strategies.

A network grows block by block from whatever map it has; every block is valid where darknet would accept it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from hypothesis import strategies as st
from reference import load
from reference.shapes import BATCH_NORM

Shape = tuple[int, int, int]
Draw = Callable[[st.SearchStrategy], object]

#: most weight on what checkpoints use
ACTIVATIONS = ["leaky", "mish", "relu", "linear", "swish", "logistic", "leaky", "mish", "relu", "linear", "relu6",
               "tanh", "elu", "selu", "gelu", "relie", "ramp", "hardtan", "lhtan", "plse", "loggy", "hard_mish",
               "revleaky"]  # fmt: skip
#: normalize_channels itself divides by what may be almost 0, which makes much of the last bit
ACROSS = ["normalize_channels_softmax", "normalize_channels_softmax_maxval"]
MOST_CHANNELS, MOST_VALUES = 48, 6000


@dataclass
class Growing:
    """A cfg as far as it has grown: its text, and the output shape of every layer."""

    draw: Draw
    text: list[str]
    shapes: list[Shape] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)  # layers that may not be referred to (antialiased)

    def pick(self, *values: object) -> object:
        return self.draw(st.sampled_from(values))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def chance(self) -> bool:
        return self.draw(st.booleans())

    @property
    def here(self) -> Shape:
        return self.shapes[-1]

    @property
    def index(self) -> int:
        """Number of the next layer."""
        return len(self.shapes)

    def add(self, kind: str, shape: Shape, **keys: object) -> None:
        """Appends a section; keys of value None are left out."""
        lines = [f"{key}={value}" for key, value in keys.items() if value is not None]
        self.text.append("\n".join([f"[{kind}]", *lines, ""]))
        self.shapes.append(shape)

    def refer(self, layer: int) -> int:
        """Writes a layer reference, relative or absolute."""
        return layer if self.chance() else layer - self.index

    def alike(self, shape: Shape | None = None) -> list[int]:
        """Lists layers of one height and width, or of one shape."""
        wanted = shape or self.here
        return [
            i
            for i, s in enumerate(self.shapes)
            if s[1:] == wanted[1:] and (shape is None or s == shape) and i not in self.hidden
        ]


def activation(g: Growing) -> str:
    return g.draw(st.sampled_from(ACTIVATIONS))


def convolution(g: Growing, filters: int | None = None, same_size: bool = False, groups: int = 1) -> None:
    _, h, w = g.here
    size = g.pick(1, 3, 3, 2, 5) if not same_size else g.pick(1, 3)
    if filters is None:
        filters = groups * g.number(1, max(1, 12 // groups))
    keys: dict[str, object] = {"filters": filters, "size": size, "groups": groups if groups > 1 else None}
    stride_x = stride_y = dilation = 1
    padding = size // 2
    if same_size or g.chance():
        keys["pad"] = 1
        if size % 2 and size > 1 and g.number(0, 3) == 0:
            keys["dilation"] = dilation = 2
    else:
        keys["padding"] = padding = g.number(0, 2)
    if not same_size:
        stride_x, stride_y = g.pick((1, 1), (1, 1), (2, 2), (1, 2), (2, 1))
        keys.update({"stride": stride_x} if stride_x == stride_y else {"stride_x": stride_x, "stride_y": stride_y})
    room = h + 2 * padding - size, w + 2 * padding - size
    if dilation > 1 and (2 * padding != size - 1):
        del keys["dilation"]
    if min(room) < 0:
        return
    keys["batch_normalize"] = g.pick(1, 1, None)
    keys["activation"] = activation(g)
    g.add("convolutional", (filters, room[0] // stride_y + 1, room[1] // stride_x + 1), **keys)


def grouped(g: Growing) -> None:
    c = g.here[0]
    divisors = [n for n in range(2, c) if c % n == 0]
    if divisors:
        convolution(g, groups=g.draw(st.sampled_from(divisors)))


def depthwise(g: Growing) -> None:
    c = g.here[0]
    if 1 < c <= MOST_CHANNELS // 2:
        convolution(g, filters=c * g.pick(1, 1, 2), groups=c)


def special(g: Growing) -> None:
    """A convolution with a flag that ties its channels down."""
    _, h, w = g.here
    filters = g.number(1, 8)
    how = g.pick("binary", "across", "antialiasing", "flipped")
    keys: dict[str, object] = {"filters": filters, "size": 3, "stride": 1, "pad": 1, "batch_normalize": g.pick(1, None)}
    if how == "antialiasing" and min(h, w) > 3:
        antialiasing = g.pick(1, 2)
        room = 1 if antialiasing == 1 else 2
        g.add("conv", (filters, (h - room) // 2 + 1, (w - room) // 2 + 1), **{**keys, "stride": 2},
              antialiasing=antialiasing, activation="leaky")  # fmt: skip
        g.hidden.add(g.index - 1)
    elif how == "across":
        g.add("convolutional", (filters, h, w), **keys, activation=g.draw(st.sampled_from(ACROSS)))
    else:
        g.add("conv", (filters, h, w), **keys, **{how if how in ("binary", "flipped") else "binary": 1},
              activation=activation(g))  # fmt: skip


def shared(g: Growing) -> None:
    """Two convolutions with one set of weights, on the same map or on two."""
    c, h, w = g.here
    other = g.index - 1
    if other in g.hidden:
        return
    twins = [i for i in g.alike((c, h, w)) if i != other]
    filters = g.number(1, 8)
    keys = {"filters": filters, "size": 3, "stride": 1, "pad": 1, "activation": activation(g)}
    g.add("convolutional", (filters, h, w), batch_normalize=g.pick(1, None), **keys)
    first = g.index - 1
    source = g.draw(st.sampled_from(twins)) if twins and g.chance() else other
    g.add("route", (c, h, w), layers=g.refer(source))
    g.add("convolutional", (filters, h, w), share_index=g.refer(first), **keys)


def route(g: Growing) -> None:
    candidates = g.alike()
    if not candidates:
        return
    count = g.number(1, min(4, len(candidates)))
    layers = [g.draw(st.sampled_from(candidates)) for _ in range(count)]
    channels = sum(g.shapes[layer][0] for layer in layers)
    groups = 1
    if g.chance():
        common = math.gcd(*(g.shapes[layer][0] for layer in layers))
        groups = g.draw(st.sampled_from([n for n in range(1, common + 1) if common % n == 0]))
    if channels // groups > MOST_CHANNELS:
        return
    keys = {"groups": groups, "group_id": g.number(0, groups - 1)} if groups > 1 else {}
    g.add("route", (channels // groups, *g.here[1:]), layers=",".join(str(g.refer(i)) for i in layers), **keys)


def residual(g: Growing) -> None:
    """Adds the map to what a convolution or two make of it, with all of [shortcut]'s options."""
    shape, start = g.here, g.index - 1
    if g.chance():
        convolution(g, filters=g.number(1, 8), same_size=True)
    convolution(g, filters=shape[0], same_size=True)
    others = [i for i in g.alike(shape) if i < g.index - 1]
    if start in g.hidden or not others:
        return
    terms = dict.fromkeys([start, *(g.draw(st.sampled_from(others)) for _ in range(g.number(0, 2)))])
    keys: dict[str, object] = {"from": ",".join(str(g.refer(i)) for i in terms)}
    if g.chance():
        keys["weights_type"] = g.pick("per_feature", "per_layer", "per_channel")
        keys["weights_normalization"] = g.pick("relu", "softmax", "avg_relu")
    keys["activation"] = g.pick("linear", "linear", "leaky", "relu", "mish", "swish", "tanh", *ACROSS[:1])
    g.add("shortcut", shape, **keys)


def squeeze(g: Growing) -> None:
    c, h, w = g.here
    start = g.index - 1
    if start in g.hidden:
        return
    g.add("avgpool", (c, 1, 1))
    if g.chance():
        g.add(
            "convolutional", (4, 1, 1), filters=4, size=1, stride=1, batch_normalize=g.pick(1, None), activation="relu"
        )
    g.add("convolutional", (c, 1, 1), filters=c, size=1, stride=1, batch_normalize=g.pick(1, None),
          activation=g.pick("logistic", "logistic", "linear", "relu6"))  # fmt: skip
    g.add("scale_channels", (c, h, w), **{"from": g.refer(start)}, activation=g.pick(None, "leaky"))


def spatial(g: Growing) -> None:
    c, h, w = g.here
    start = g.index - 1
    if start in g.hidden:
        return
    g.add("convolutional", (1, h, w), filters=1, size=1, stride=1, batch_normalize=g.pick(1, None),
          activation="logistic")  # fmt: skip
    g.add("scale_channels", (c, h, w), **{"from": g.refer(start)}, scale_wh=1)


def attention(g: Growing) -> None:
    c, h, w = g.here
    start = g.index - 1
    if start in g.hidden:
        return
    g.add("convolutional", (c, h, w), filters=c, size=1, stride=1, batch_normalize=g.pick(1, None),
          activation=g.pick("logistic", "leaky"))  # fmt: skip
    g.add("sam", (c, h, w), **{"from": g.refer(start)}, activation=g.pick(None, "linear", "tanh"))


def learned(g: Growing) -> None:
    """[implicit] added to, multiplied with or scaling a map."""
    c, h, w = g.here
    if (h, w) != (1, 1) and g.chance():
        g.add("avgpool", (c, 1, 1))
    start, (c, h, w) = g.index - 1, g.here
    if start in g.hidden:
        return
    g.add("implicit", (c, 1, 1), filters=c)
    if (h, w) == (1, 1):
        g.add(g.pick("sam", "shortcut", "scale_channels"), (c, 1, 1), **{"from": g.refer(start)})
    else:
        g.add("scale_channels", (c, h, w), **{"from": g.refer(start)})


def pool(g: Growing) -> None:
    c, h, w = g.here
    kind = g.pick("maxpool", "maxpool", "local_avgpool")
    size, stride = g.number(1, 4), g.number(1, 3)
    padding = g.draw(st.sampled_from([None, *range(size)]))
    total = size - 1 if padding is None else padding
    if min(h, w) + total < size:
        return
    out = (h + total - size) // stride + 1, (w + total - size) // stride + 1
    g.add(kind, (c, *out), size=size, stride=stride, padding=padding)


def deep_pool(g: Growing) -> None:
    c, h, w = g.here
    out = g.draw(st.sampled_from([n for n in range(1, c + 1) if c % n == 0] + [max(1, c - 1)]))
    g.add("maxpool", (out, h, w), maxpool_depth=1, out_channels=out)


def upsample(g: Growing) -> None:
    c, h, w = g.here
    if c * h * w * 4 <= MOST_VALUES and g.chance():
        g.add("upsample", (c, 2 * h, 2 * w), stride=g.pick(2, None), scale=g.pick(None, 0.5))
    elif h % 2 == 0 and w % 2 == 0:
        g.add("upsample", (c, h // 2, w // 2), stride=-2, scale=g.pick(None, 0.25))


def reorganise(g: Growing) -> None:
    c, h, w = g.here
    how = g.pick("reorg", "reorg3d", "reverse", "reverse3d")
    if how in ("reorg", "reorg3d") and h % 2 == 0 and w % 2 == 0 and 4 * c <= MOST_CHANNELS:
        if how == "reorg3d" or c % 4 == 0:
            g.add(how, (4 * c, h // 2, w // 2), stride=2)
    elif how == "reverse" and c % 4 == 0:
        g.add("reorg", (c // 4, 2 * h, 2 * w), stride=2, reverse=1)
    elif how == "reverse3d" and c % 16 == 0:
        g.add("reorg3d", (c // 4, 2 * h, 2 * w), stride=2, reverse=1)


def simple(g: Growing) -> None:
    c, h, w = g.here
    kind = g.pick("batchnorm", "dropout", "empty", "activation", "crop", "normalization", "silence")
    if kind == "activation":
        g.add(kind, g.here, activation=g.draw(st.sampled_from([*ACTIVATIONS, ACROSS[0]])))
    elif kind == "crop":
        height, width = g.number(max(1, h - 3), h), g.number(max(1, w - 3), w)
        g.add(kind, (c, height, width), crop_height=height, crop_width=width, noadjust=g.pick(None, 1))
    else:
        g.add(kind, g.here)


def connected(g: Growing) -> None:
    n = g.number(1, 10)
    g.add("connected", (n, 1, 1), output=n, batch_normalize=g.pick(1, None), activation=activation(g))


def head(g: Growing) -> None:
    """A detection head, after which the network may go on from before it."""
    c, h, w = g.here
    start = g.index - 1
    kind = g.pick("yolo", "yolo", "region", "Gaussian_yolo")
    channels = 2 * (2 + (9 if kind == "Gaussian_yolo" else 5))
    g.add("convolutional", (channels, h, w), filters=channels, size=1, stride=1, activation="linear")
    masks = {} if kind == "region" else {"mask": "0,1"}
    g.add(kind, (channels, h, w), classes=2, num=2, anchors="1,2,3,4", **masks)
    if start not in g.hidden:
        g.add("route", (c, h, w), layers=g.refer(start))


BLOCKS = [convolution, convolution, convolution, grouped, depthwise, depthwise, special, shared, route, route,
          residual, residual, squeeze, spatial, attention, learned, pool, pool, deep_pool, upsample, reorganise, simple,
          simple, connected, head]  # fmt: skip


def cfg(*sections: str, channels: int = 3, side: int = 8) -> str:
    """`conv filters=3 size=3` is a section; the keys are written one per line."""
    lines = [f"[net]\nwidth={side}\nheight={side}\nchannels={channels}\n"]
    for section in sections:
        name, *keys = section.split()
        lines.append("\n".join([f"[{name}]", *keys]) + "\n")
    return "\n".join(lines)


@dataclass(frozen=True)
class Network:
    """A random network.

    Attributes:
        text: its cfg.
        seed: of the generator of weights and image.
        quiet: see `random_tensors`.
    """

    text: str
    seed: int
    quiet: bool

    @cached_property
    def weights(self) -> bytes:
        return random_tensors(self.text, self.seed, self.quiet)

    @property
    def image(self) -> np.ndarray:
        return np.random.default_rng(self.seed).uniform(-1, 1, load(self.text, None).input_shape)


@st.composite
def networks(draw: Draw, blocks: list[Callable[[Growing], None]] | None = None, most: int = 8) -> Network:
    """Networks of some blocks, with random weights whose γ and β leave constants that matter."""
    side = draw(st.sampled_from([(8, 8), (6, 8), (7, 5), (9, 9)]))
    channels = draw(st.integers(1, 4))
    g = Growing(draw, [f"[net]\nbatch=1\nwidth={side[1]}\nheight={side[0]}\nchannels={channels}\n"])
    first = draw(st.integers(4, 12))
    g.shapes.append((channels, *side))
    convolution(g, filters=first, same_size=True)
    del g.shapes[0]
    for block in draw(st.lists(st.sampled_from(blocks or BLOCKS), min_size=2, max_size=most)):
        block(g)
        if g.here[0] > MOST_CHANNELS or math.prod(g.here) > MOST_VALUES:
            break
    if draw(st.integers(0, 4)) < 4:  # else the last block is an output, and pinned
        convolution(g, filters=draw(st.integers(1, 6)))
    if draw(st.integers(0, 4)) == 0:
        g.add("softmax", (0, 0, 0))
        if g.chance():
            g.add("cost", (0, 0, 0))
    text = "\n".join(g.text)
    seed = draw(st.integers(0, 2**20))
    quiet = draw(st.booleans())
    return Network(text, seed, quiet)


def random_tensors(text: str, seed: int, quiet: bool) -> bytes:
    """A weights file; `quiet` ones have γ that differ by orders of magnitude, some of them 0."""
    random = np.random.default_rng(seed)
    chunks = [struct.pack("<3iQ", 0, 2, 5, seed)]
    for layer in load(text, None).layers:
        if layer.options.integer("dontload", 0):
            continue
        for name, shape in layer.tensors:
            if name in BATCH_NORM and layer.options.integer("dontloadscales", 0):
                continue
            if name == "scales":
                values = random.uniform(0.2, 1.4, shape) * random.choice([-1, 1], shape)
                if quiet:
                    values *= random.choice([0, 0.01, 1], shape)
            elif name == "rolling_variance":
                values = random.uniform(0.5, 1.5, shape)
            elif layer.kind == "shortcut":
                values = random.uniform(0.2, 1.5, shape)
            elif name == "weights" and layer.kind != "implicit":
                values = random.normal(0, math.sqrt(1 / math.prod(shape[1:])), shape)
            else:
                values = random.normal(0.2, 0.5, shape)
            chunks.append(values.astype("<f4").tobytes())
    return b"".join(chunks)


def tensors_of(text: str, given: Mapping[tuple[int, str], object], seed: int = 0) -> bytes:
    """A weights file with some tensors given, by (layer, name), and the others random."""
    random = np.random.default_rng(seed)
    chunks = [struct.pack("<3iQ", 0, 2, 5, 0)]
    for layer in load(text, None).layers:
        for name, shape in layer.tensors:
            values = random.uniform(0.5, 1.5, shape)
            if (layer.index, name) in given:
                values = np.broadcast_to(np.asarray(given[layer.index, name], float), shape)
            chunks.append(values.astype("<f4").tobytes())
    return b"".join(chunks)


def gammas(text: str, **layers: Sequence[float]) -> bytes:
    """A weights file with the γ of some layers given: `_3=[…]` for layer 3."""
    return tensors_of(text, {(int(name[1:]), "scales"): values for name, values in layers.items()})
