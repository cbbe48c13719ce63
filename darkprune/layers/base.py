"""What every section kind declares: the vocabulary in which `darkprune.layers` states darknet's facts.

One class per kind. From its declaration follow reading, file size, slicing, writing, the parameter count, the channel
rules and the constants of removed channels; nothing else in the program knows what a kind does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from darkprune.darknet.options import Options
from darkprune.errors import CfgError

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
#: fetches one stored blob of a layer by name, shaped as its axes say, float32
BlobReader = Callable[[str], NDArray[np.float32]]

_Self = TypeVar("_Self", bound="Kind")
_Value = TypeVar("_Value")

INPUT = -1  #: the source index of the network's input
MAX_ELEMENTS = 2**31 - 1  #: darknet counts outputs and weights in 32-bit integers


class Feature(NamedTuple):
    """A layer's output.

    Attributes:
        c, h, w: channels, rows, columns; all 0 where darknet sets no map (softmax, cost, some heads).
        outputs: number of values.
    """

    c: int
    h: int
    w: int
    outputs: int

    @classmethod
    def map(cls, c: int, h: int, w: int) -> Feature:
        """Makes a c x h x w map."""
        return cls(c, h, w, c * h * w)

    @classmethod
    def flat(cls, outputs: int) -> Feature:
        """Makes an output without a map."""
        return cls(0, 0, 0, outputs)

    @property
    def is_map(self) -> bool:
        """Whether there are channels to speak of."""
        return self.c > 0 and self.h > 0 and self.w > 0

    def __str__(self) -> str:
        return f"{self.c}x{self.h}x{self.w}" if self.is_map else str(self.outputs)


class Role(Enum):
    """What the positions along a blob's axis stand for."""

    OUT = "out"  #: the layer's output channels
    IN = "in"  #: its input channels; with groups g, the c/g channels of the filter's own block
    IN_FLAT = "in_flat"  #: input channel x row x column, in memory order
    FIXED = "fixed"  #: taps, cells, gates: never cut


class Axis(NamedTuple):
    """One axis of a blob."""

    role: Role
    size: int


@dataclass(frozen=True)
class Blob:
    """One tensor of the weights file.

    Attributes:
        name: darknet's name (`biases`, `scales`, `rolling_mean`, `rolling_variance`, `weights`, or dotted for parts).
        axes: axes in memory order, slowest first.
        groups: for role IN: number of blocks that OUT and IN are divided into.
        trained: False for running statistics.
        transposable: stored with its axes reversed in files whose header says "transposed".
    """

    name: str
    axes: tuple[Axis, ...]
    groups: int = 1
    trained: bool = True
    transposable: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(axis.size for axis in self.axes)

    @property
    def count(self) -> int:
        """Number of floats."""
        count = 1
        for axis in self.axes:
            count *= axis.size
        return count


class ChannelRules(Protocol):
    """What a kind can say about channels; implemented in `darkprune.graph.channels`.

    Attributes:
        references: labels of the layers that this one points at without reading them.
        reference_inputs: labels of the first input of each of them.
    """

    references: tuple[Labels, ...]
    reference_inputs: tuple[Labels, ...]

    def new(self, count: int) -> Labels:
        """Makes labels for channels that this layer produces."""
        ...

    def unite(self, first: Labels, second: Labels) -> None:
        """Couples two equally long lists of channels: what happens to one happens to the other."""
        ...

    def pin(self, labels: Labels, reason: str) -> None:
        """Keeps channels whatever their score."""
        ...

    def equal_split(self, labels: Labels, blocks: int) -> None:
        """Demands that each of some equal consecutive blocks keeps the same number of channels."""
        ...

    def follow(self, labels: Labels) -> None:
        """Takes the vote from the producers of these channels: they follow the channels they are coupled with."""
        ...


@dataclass(frozen=True)
class Net:
    """What `[net]` says that matters beyond training.

    Attributes:
        input: the network's input; a map unless the cfg gives only `inputs`.
        batch: images per batch (training).
        subdivisions: parts that a batch is divided into.
        time_steps: steps of a recurrent network.
        letter_box: whether images are letterboxed instead of stretched.
    """

    input: Feature
    batch: int
    subdivisions: int
    time_steps: int
    letter_box: bool


def key(read: Callable[[Options], _Value]) -> _Value:
    """Declares a field of a kind: how its value follows from the section's keys, with darknet's default."""
    declared: _Value = field(metadata={"read": read})
    return declared


class Kind(ABC):
    """A section kind; instances are frozen dataclasses of the values that the section gives (see `key`).

    Class attributes:
        names: section names, the usual one first.
        other_keys: keys that darknet reads besides those that `read` asks for (training, GPU).
        follows: whether the first source is read as the layer before, and not by its number.
        index_key: the key that holds layer indices, and whether it is a list; negative ones count back from the layer
            itself, and what points at no layer before it (999999, unset) means none.
        zero_if: which inputs, all 0, make the output 0 whatever the others are (the activation apart); None: none do.
        keeps_mean: channel i averages the values of input channel i, whose mean over images and places stays.
    """

    names: ClassVar[tuple[str, ...]] = ()
    other_keys: ClassVar[frozenset[str]] = frozenset()
    follows: ClassVar[bool] = True
    index_key: ClassVar[tuple[str, bool] | None] = None
    zero_if: ClassVar[slice | None] = None
    keeps_mean: ClassVar[bool] = False

    @classmethod
    def read(cls: type[_Self], options: Options) -> _Self:
        """Reads the section's keys: every field as it is declared, see `key`.

        Raises:
            CfgError: a value that no network can have.
        """
        return cls(**{each.name: each.metadata["read"](options) for each in fields(cls)})  # type: ignore[arg-type]

    def sources(self, index: int) -> tuple[int, ...]:
        """Returns the layers read from, as absolute indices in the order of use; `INPUT` is the network's input."""
        return (index - 1,)

    def references(self, index: int) -> tuple[int, ...]:
        """Returns layers that the section points at without reading their output (share_index, embedding_layer)."""
        return ()

    @abstractmethod
    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Computes the output's shape.

        Raises:
            CfgError: shapes that do not fit (a message without place; the caller adds file and line).
        """

    def blobs(self, inputs: Sequence[Feature], output: Feature) -> tuple[Blob, ...]:
        """Lists the stored tensors in file order."""
        return ()

    def macs(self, inputs: Sequence[Feature], output: Feature) -> int:
        """Counts multiply-adds of convolutions and connected layers for one image."""
        return 0

    def bflops(self, inputs: Sequence[Feature], output: Feature) -> float:
        """Computes the figure that darknet prints as BF: billions of operations, by its own formulas."""
        return 0.0

    def is_depthwise(self, inputs: Sequence[Feature]) -> bool:
        """Returns whether every input channel has filters of its own."""
        return False

    def is_dense(self, inputs: Sequence[Feature]) -> bool:
        """Returns whether channels are made as weighted sums over input channels."""
        return False

    def trouble(self, inputs: Sequence[Feature], output: Feature) -> str | None:
        """Returns what AlexeyAB's program would do wrong with this layer (abort, read junk), if it would."""
        return None

    def seen_after(self, output: Feature) -> Feature:
        """Returns the map that the layer directly after it reads; another than `output` where a blur follows."""
        return output

    @abstractmethod
    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Returns one label per output channel and states couplings, splits and pins."""

    def constant(self, inputs: Sequence[Floats], blob: BlobReader) -> Floats:
        """Returns the output's value per channel where every input channel is constant over its map.

        Only called for kinds that pass channels on; inputs of kept channels are NaN and may come out as anything.
        """
        raise NotImplementedError(f"{type(self).__name__} has no constants")

    def widths(self, kept_in: int, kept_out: int) -> dict[str, int]:
        """Returns the keys whose values follow the widths, for given numbers of channels kept."""
        return {}


#: section name -> kind
KINDS: dict[str, type[Kind]] = {}

#: keys that darknet reads in every section
COMMON_KEYS = frozenset([
    "clip", "onlyforward", "dont_update", "burnin_update", "stopbackward", "train_only_bn", "dontload",
    "dontloadscales", "learning_rate",
])  # fmt: skip

K = TypeVar("K", bound=type[Kind])
T = TypeVar("T")


def register(kind: K) -> K:
    """Class decorator: makes the kind known under its section names."""
    for name in kind.names:
        if name in KINDS:
            raise ValueError(f"two kinds are called {name}")
        KINDS[name] = kind
    return kind


def one(inputs: Sequence[T]) -> T:
    """Returns the only input of a layer that has one."""
    (only,) = inputs
    return only


def require_map(feature: Feature, what: str) -> Feature:
    """Returns the feature if it is a map, counted by its sides (a route can slice through a channel).

    Raises:
        CfgError: it is flat ("Layer before … must output image" in darknet).
    """
    if not feature.is_map:
        raise CfgError(f"{what} needs a map (channels x rows x columns), but its input has none")
    return Feature.map(feature.c, feature.h, feature.w)


def blurred(output: Feature, antialiasing: int, stride_x: int, stride_y: int) -> Feature:
    """Computes the map after the fixed blur of `antialiasing`, which takes the layer's strides (3x3, or 2x2 for 2).

    Raises:
        CfgError: see `bounded`.
    """
    room = -2 if antialiasing == 2 else -1  # 2x2 without padding, 3x3 padded by 1
    return bounded(output.c, positions(output.h + room, stride_y), positions(output.w + room, stride_x), "the blur")


def bounded(c: int, h: int, w: int, what: str) -> Feature:
    """Returns a map after checking that it exists and that darknet could count it.

    Raises:
        CfgError: an empty map or one of more than 2^31 - 1 values.
    """
    if min(c, h, w) < 1:
        raise CfgError(f"{what} would give an empty map ({c}x{h}x{w}); the input is too small for it")
    if c * h * w > MAX_ELEMENTS:
        raise CfgError(f"{what} would give {c}x{h}x{w} values, more than 2^31 - 1")
    return Feature.map(c, h, w)


def positions(room: int, stride: int) -> int:
    """Counts the positions of a window: room/stride + 1, where room is what the window leaves free of the padded input.

    C's division rounds towards zero: a window that is larger by less than a stride has one position in darknet.
    """
    return (room // stride if room >= 0 else -(-room // stride)) + 1


def absolute(reference: int, index: int) -> int:
    """Resolves a layer reference of the cfg: negative ones count back from the layer that holds them."""
    return index + reference if reference < 0 else reference
