"""The formulas, one function each, on (c, h, w) arrays without a batch. Nothing here knows about layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce

import numpy as np

NO_VALUE = float(np.finfo(np.float32).min)  # darknet's -FLT_MAX: the maximum over an empty window


def _logistic(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _exp_minus_one(x: np.ndarray) -> np.ndarray:
    return np.expm1(np.minimum(x, 0))


def _mish(x: np.ndarray) -> np.ndarray:
    middle = np.log1p(np.exp(np.clip(x, -20, 20)))
    return x * np.tanh(np.where(x > 20, x, np.where(x < -20, np.exp(np.minimum(x, 0)), middle)))


def _stair(x: np.ndarray) -> np.ndarray:
    whole = np.floor(x)
    return np.floor(x / 2) + np.where(whole % 2 == 0, 0, x - whole)


def _plse(x: np.ndarray) -> np.ndarray:
    return np.where(x < -4, 0.01 * (x + 4), np.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


def _lhtan(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, 0.001 * x, np.where(x > 1, 0.001 * (x - 1) + 1, x))


def _shares(parts: np.ndarray) -> np.ndarray:
    return parts / (1e-4 + parts.sum(axis=0))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "logistic": _logistic,
    "loggy": lambda x: 2 * _logistic(x) - 1,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "elu": lambda x: np.where(x >= 0, x, _exp_minus_one(x)),
    "selu": lambda x: 1.0507 * np.where(x >= 0, x, 1.6732 * _exp_minus_one(x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3)),
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
    "ramp": lambda x: np.maximum(x, 0) + 0.1 * x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "revleaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "tanh": np.tanh,
    "plse": _plse,
    "stair": _stair,
    "hardtan": lambda x: np.clip(x, -1, 1),
    "lhtan": _lhtan,
    "swish": lambda x: x * _logistic(x),
    "mish": _mish,
    "hard_mish": lambda x: np.where(x > 0, x, np.where(x > -2, x * x / 2 + x, 0)),
    "normalize_channels": lambda x: _shares(np.maximum(x, 0)),
    "normalize_channels_softmax": lambda x: _shares(np.exp(x)),
    "normalize_channels_softmax_maxval": lambda x: _shares(np.exp(x - x.max(axis=0))),
}


def activate(x: np.ndarray, name: str) -> np.ndarray:
    """An unknown name is ReLU, as in darknet. The channel sums of normalize_* run over the first axis."""
    return ACTIVATIONS.get(name, ACTIVATIONS["relu"])(x)


def windows(
    x: np.ndarray, size: int, stride: tuple[int, int], out: tuple[int, int], dilation: int = 1
) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each kernel position (row, column): what every output pixel sees there, (c, *out). `x` is padded already."""
    for row in range(size):
        for column in range(size):
            top, left = row * dilation, column * dilation
            bottom, right = top + (out[0] - 1) * stride[0] + 1, left + (out[1] - 1) * stride[1] + 1
            yield row, column, x[:, top : bottom : stride[0], left : right : stride[1]]


def pad(x: np.ndarray, before: int, after: tuple[int, int], value: float) -> np.ndarray:
    """Adds `before` rows and columns in front, `after` = (rows, columns) behind."""
    return np.pad(x, ((0, 0), (before, max(0, after[0])), (before, max(0, after[1]))), constant_values=value)


def convolve(
    x: np.ndarray, weights: np.ndarray, stride: tuple[int, int], padding: int, dilation: int, groups: int
) -> np.ndarray:
    """Grouped convolution without bias. weights: (n, c/groups, k, k); block j of the outputs reads block j of x."""
    n, per_group, size, _ = weights.shape
    x = pad(x, padding, (padding, padding), 0)
    reach = dilation * (size - 1) + 1
    out = ((x.shape[1] - reach) // stride[0] + 1, (x.shape[2] - reach) // stride[1] + 1)
    kernel = weights.reshape(groups, n // groups, per_group, size, size)
    total = np.zeros((groups, n // groups, out[0] * out[1]), x.dtype)
    for row, column, seen in windows(x, size, stride, out, dilation):
        total += kernel[..., row, column] @ seen.reshape(groups, per_group, -1)
    return total.reshape(n, *out)


def convolve_local(x: np.ndarray, weights: np.ndarray, stride: int, padding: int, out: tuple[int, int]) -> np.ndarray:
    """A kernel of its own for every output pixel. weights: (out_h*out_w, n, c, k, k)."""
    size = weights.shape[-1]
    x = pad(x, padding, (padding, padding), 0)
    total = np.zeros((weights.shape[1], out[0] * out[1]), x.dtype)
    for row, column, seen in windows(x, size, (stride, stride), out):
        total += np.einsum("lnc,cl->nl", weights[..., row, column], seen.reshape(seen.shape[0], -1))
    return total.reshape(-1, *out)


def blur(x: np.ndarray, antialiasing: int, stride: tuple[int, int]) -> np.ndarray:
    """Depthwise low-pass behind an antialiased layer: 3x3 binomial, or a 2x2 box for antialiasing=2."""
    line = np.array([1, 1] if antialiasing == 2 else [1, 2, 1], x.dtype)
    kernel = np.outer(line, line) / line.sum() ** 2
    weights = np.broadcast_to(kernel, (x.shape[0], 1, *kernel.shape))
    return convolve(x, weights, stride, 0 if antialiasing == 2 else 1, 1, x.shape[0])


def batch_normalise(x: np.ndarray, arrays: dict[str, np.ndarray], eps: float) -> np.ndarray:
    """(x - mean) / sqrt(variance + eps) * scale + bias along the first axis."""
    mean, variance, scales, biases = (
        arrays[name].reshape(-1, *[1] * (x.ndim - 1))
        for name in ("rolling_mean", "rolling_variance", "scales", "biases")
    )
    return (x - mean) / np.sqrt(variance + eps) * scales + biases


def _pool_border(
    x: np.ndarray, size: int, stride: tuple[int, int], padding: int, out: tuple[int, int]
) -> tuple[int, tuple[int, int]]:
    """`padding` is the total: floor(padding/2) goes to the top and left, the rest to the bottom and right."""
    before = padding // 2
    behind = tuple((n - 1) * s + size - before - length for n, s, length in zip(out, stride, x.shape[1:], strict=True))
    return before, behind


def max_pool(x: np.ndarray, size: int, stride: tuple[int, int], padding: int, out: tuple[int, int]) -> np.ndarray:
    padded = pad(x, *_pool_border(x, size, stride, padding, out), NO_VALUE)
    return reduce(np.maximum, (seen for *_, seen in windows(padded, size, stride, out)))


def average_pool(x: np.ndarray, size: int, stride: tuple[int, int], padding: int, out: tuple[int, int]) -> np.ndarray:
    """Mean over the cells inside the image."""
    border = _pool_border(x, size, stride, padding, out)
    padded, inside = pad(x, *border, 0), pad(np.ones_like(x[:1]), *border, 0)
    total = sum(seen for *_, seen in windows(padded, size, stride, out))
    return total / sum(seen for *_, seen in windows(inside, size, stride, out))


def max_over_channels(x: np.ndarray, out_channels: int) -> np.ndarray:
    """Output g is the maximum of the inputs g, g + out_channels, g + 2*out_channels ..."""
    kept = [x[g::out_channels].max(axis=0, initial=NO_VALUE) for g in range(out_channels)]
    return np.stack(kept)


def local_response(x: np.ndarray, size: int, alpha: float, beta: float, kappa: float) -> np.ndarray:
    """x * (kappa + alpha*S)^-beta with darknet's running sum S of squares.

    The sum starts with size/2 channels instead of size/2 + 1, so channel size/2 is never added, yet later subtracted.
    """
    squares = x * x
    total = squares[: size // 2].sum(axis=0)
    out = np.empty_like(x)
    for k in range(x.shape[0]):
        leaving, entering = k - (size - 1) // 2 - 1, k + size // 2
        if k and leaving >= 0:
            total = total - squares[leaving]
        if k and entering < x.shape[0]:
            total = total + squares[entering]
        out[k] = x[k] * (kappa + alpha * total) ** -beta
    return out


def space_to_depth(x: np.ndarray, s: int) -> np.ndarray:
    """Y[o*c + k, y, x] = X[k, y*s + o/s, x*s + o%s]: (c, h, w) -> (c*s*s, h/s, w/s)."""
    c, h, w = x.shape
    return x.reshape(c, h // s, s, w // s, s).transpose(2, 4, 0, 1, 3).reshape(c * s * s, h // s, w // s)


def depth_to_space(x: np.ndarray, s: int) -> np.ndarray:
    """Inverse of `space_to_depth`: (c, h, w) -> (c/(s*s), h*s, w*s)."""
    c, h, w = x.shape
    return x.reshape(s, s, c // (s * s), h, w).transpose(2, 3, 0, 4, 1).reshape(c // (s * s), h * s, w * s)


def upsample(x: np.ndarray, stride: int, scale: float) -> np.ndarray:
    """Nearest neighbour times scale; a negative stride sums s x s blocks instead."""
    if stride > 0:
        return scale * x.repeat(stride, axis=1).repeat(stride, axis=2)
    s, (c, h, w) = -stride, x.shape
    if h % s or w % s:
        raise ValueError(f"{h}x{w} is no multiple of {s}: darknet's rows shift")
    return scale * x.reshape(c, h // s, s, w // s, s).sum(axis=(2, 4))


def softmax(x: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Along the last axis."""
    powers = np.exp((x - x.max(axis=-1, keepdims=True)) / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def normalise_weights(weights: np.ndarray, normalisation: str) -> np.ndarray:
    """Fusion weights of a [shortcut], (terms,) or (terms, c), into shares; the floor is .001 as in fuse and on GPU."""
    positive = np.maximum(weights, 0.001) if normalisation != "softmax" else np.exp(weights - weights.max(axis=0))
    return positive / (1e-4 + positive.sum(axis=0))
