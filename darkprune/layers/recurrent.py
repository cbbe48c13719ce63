"""[crnn], [rnn], [gru], [lstm], [conv_lstm], [history]: shapes and files only; their channels are pinned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from darkprune.darknet.options import Options
from darkprune.layers.base import (
    Axis,
    Blob,
    ChannelRules,
    Feature,
    Kind,
    Labels,
    Role,
    bounded,
    key,
    one,
    register,
    require_map,
)
from darkprune.layers.convolution import Geometry, activation_of, padding_of
from darkprune.layers.dense import connected_blobs


def _fixed(blobs: Sequence[Blob]) -> tuple[Blob, ...]:
    """Returns the blobs with every axis fixed: no channel of a recurrent layer is ever cut."""
    return tuple(replace(blob, axes=tuple(Axis(Role.FIXED, axis.size) for axis in blob.axes)) for blob in blobs)


class Recurrent(Kind):
    """Base: pins what is read and what is made."""

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Pins both sides."""
        name = f"[{self.names[0]}]"
        rules.pin(one(inputs), f"read by {name}, which has no channel rule")
        labels = rules.new(output.c)
        rules.pin(labels, f"made by {name}, which has no channel rule")
        return labels


def _geometry(options: Options) -> Geometry:
    size = options.positive("size", 3, 4096)
    stride = options.positive("stride", 1, 4096)
    dilation = options.positive("dilation", 1, 4096)
    groups = 1 if options.flag("xnor") else options.positive("groups", 1)
    return Geometry(options.positive("output", 1), groups, size, stride, stride, dilation, padding_of(options, size))


@dataclass(frozen=True)
class _Convolutions(Recurrent):
    """Base of the kinds that consist of several convolutions."""

    geometry: Geometry = key(_geometry)
    activation: str = key(lambda options: activation_of(options, "logistic"))
    batch_normalize: bool = key(lambda options: options.flag("batch_normalize"))
    xnor: bool = key(lambda options: options.flag("xnor"))

    @abstractmethod
    def parts(self, channels: int) -> tuple[tuple[str, Geometry, int], ...]:
        """Returns name, geometry and input channels of each convolution, in file order."""

    def blobs(self, inputs: Sequence[Feature], output: Feature) -> tuple[Blob, ...]:
        """The convolutions in file order."""
        return _fixed(
            [
                blob
                for name, geometry, channels in self.parts(inputs[0].c)
                for blob in geometry.blobs(channels, self.batch_normalize, part=f"{name}.")
            ]
        )

    def macs(self, inputs: Sequence[Feature], output: Feature) -> int:
        """Adds the convolutions."""
        return sum(g.weights(c) * output.h * output.w for _, g, c in self.parts(inputs[0].c))

    def bflops(self, inputs: Sequence[Feature], output: Feature) -> float:
        """Adds the convolutions."""
        return sum(g.bflops(c, output.h, output.w, self.xnor) for _, g, c in self.parts(inputs[0].c))


@register
@dataclass(frozen=True)
class Crnn(_Convolutions):
    """Three convolutions: state = act(input) + act(self), output = act(output(state)) (`crnn_layer.c`)."""

    names = ("crnn",)

    hidden: int = key(lambda options: options.positive("hidden", 1))
    shortcut: bool = key(lambda options: options.flag("shortcut"))

    def parts(self, channels: int) -> tuple[tuple[str, Geometry, int], ...]:
        """Input, self, output."""
        inner = replace(self.geometry, filters=self.hidden)
        return (("input", inner, channels), ("self", inner, self.hidden), ("output", self.geometry, self.hidden))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Returns the output convolution's map; each of the three keeps rows and columns."""
        feature = require_map(one(inputs), "[crnn]")
        for name, geometry, channels in self.parts(feature.c):
            out = geometry.output(feature._replace(c=channels), f"[crnn] {name}")
        return out

    def trouble(self, inputs: Sequence[Feature], output: Feature) -> str | None:
        """The three convolutions follow one another, but darknet gives each the input's rows and columns."""
        if (output.h, output.w) != (inputs[0].h, inputs[0].w):
            return "darknet aborts: the convolutions of [crnn] must keep the map's size (stride=1, pad=1)"
        return None


@register
@dataclass(frozen=True)
class ConvLstm(_Convolutions):
    """A convolutional LSTM (`conv_lstm_layer.c`)."""

    names = ("conv_lstm",)
    other_keys = frozenset(["state_constrain", "shortcut", "lstm_activation", "time_normalizer"])

    activation: str = key(lambda options: activation_of(options, "linear"))
    peephole: bool = key(lambda options: options.flag("peephole"))
    bottleneck: bool = key(lambda options: options.flag("bottleneck"))

    def parts(self, channels: int) -> tuple[tuple[str, Geometry, int], ...]:
        """[vf, vi, vo,] wf [, wi, wg, wo], uf, ui, ug, uo."""
        geometry = self.geometry
        peep = [(name, geometry, geometry.filters) for name in ("vf", "vi", "vo") if self.peephole]
        if self.bottleneck:
            state = [("wf", geometry, 2 * geometry.filters)]
        else:
            state = [(name, geometry, geometry.filters) for name in ("wf", "wi", "wg", "wo")]
        return (*peep, *state, *((name, geometry, channels) for name in ("uf", "ui", "ug", "uo")))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Returns the map of its convolutions."""
        feature = require_map(one(inputs), "[conv_lstm]")
        return self.geometry.output(feature, "[conv_lstm]")

    def trouble(self, inputs: Sequence[Feature], output: Feature) -> str | None:
        """The bottleneck exists in the GPU build only."""
        return "darknet's CPU build aborts on bottleneck=1" if self.bottleneck else None

    def bflops(self, inputs: Sequence[Feature], output: Feature) -> float:
        """Adds the convolutions and 9 (12 with peephole) operations per output."""
        return super().bflops(inputs, output) + (12 if self.peephole else 9) * output.outputs / 1e9


@dataclass(frozen=True)
class _Cell(Recurrent):
    """Base of the fully connected recurrent kinds: matrices from input and from state, in file order."""

    outputs: int = key(lambda options: options.positive("output", 1))
    batch_normalize: bool = key(lambda options: options.flag("batch_normalize"))

    def matrices(self, inputs: int) -> tuple[tuple[str, int, int], ...]:
        """Returns (name, inputs, outputs) of each connected layer."""
        raise NotImplementedError

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Returns output x 1 x 1."""
        return bounded(self.outputs, 1, 1, f"[{self.names[0]}]")

    def blobs(self, inputs: Sequence[Feature], output: Feature) -> tuple[Blob, ...]:
        """The matrices in file order, each a connected layer."""
        return _fixed(
            [
                blob
                for name, given, made in self.matrices(inputs[0].outputs)
                for blob in connected_blobs(made, given, self.batch_normalize, f"{name}.")
            ]
        )

    def macs(self, inputs: Sequence[Feature], output: Feature) -> int:
        """Counts the weights of all matrices."""
        return sum(given * made for _, given, made in self.matrices(inputs[0].outputs))


@register
@dataclass(frozen=True)
class Rnn(_Cell):
    """A plain recurrent layer: input, self and output matrices (`rnn_layer.c`)."""

    names = ("rnn",)
    other_keys = frozenset(["logistic", "shortcut"])

    hidden: int = key(lambda options: options.positive("hidden", 1))
    activation: str = key(lambda options: activation_of(options, "logistic"))

    def matrices(self, inputs: int) -> tuple[tuple[str, int, int], ...]:
        """Input, self, output."""
        hidden = self.hidden
        return (("input", inputs, hidden), ("self", hidden, hidden), ("output", hidden, self.outputs))


@register
@dataclass(frozen=True)
class Gru(_Cell):
    """A gated recurrent unit; darknet sets no map for its output (`gru_layer.c`)."""

    names = ("gru",)

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Returns a flat output."""
        return Feature.flat(self.outputs)

    def matrices(self, inputs: int) -> tuple[tuple[str, int, int], ...]:
        """Input z, r, h, then state z, r, h."""
        made = self.outputs
        return tuple(
            (f"{part}_{gate}", given, made) for part, given in (("input", inputs), ("state", made)) for gate in "zrh"
        )


@register
@dataclass(frozen=True)
class Lstm(_Cell):
    """A long short-term memory (`lstm_layer.c`)."""

    names = ("lstm",)

    def matrices(self, inputs: int) -> tuple[tuple[str, int, int], ...]:
        """State f, i, g, o, then input f, i, g, o."""
        made = self.outputs
        return tuple((f"{part}{gate}", given, made) for part, given in (("w", made), ("u", inputs)) for gate in "figo")


@register
@dataclass(frozen=True)
class History(Recurrent):
    """The last history_size inputs side by side (`history_layer` of `conv_lstm_layer.c`)."""

    names = ("history",)

    history_size: int = key(lambda options: options.positive("history_size", 4, 4096))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Returns history_size times the channels."""
        source = require_map(one(inputs), "[history]")
        return bounded(source.c * self.history_size, source.h, source.w, "[history]")
