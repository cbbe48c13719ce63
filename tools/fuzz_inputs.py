"""Inputs for `fuzz.py`: damaged copies of good files, and files of random structure; a seed decides each of them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence

#: text that readers have stumbled over
TOKENS = (
    b"\x00", b"\x1b[31m", b"\x07", b"\r", b"\n", b"\r\n", b"\t", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xae",
    b"\xc3\x28", b"\xed\xa0\x80", b"=", b"==", b"#", b";", b"[", b"]", b"[net]", b"[yolo]", b"{", b"}", b"[" * 2000,
    b'{"a":' * 2000, b'"', b"\\u0000", b"\\ud800", b"null", b"true", b"[]", b"{}", b"../..", b"/dev/zero", b"//", b"\\",
    b"$x$", b"%s", b"<script>", b"&amp;", b"A" * 5000, b" " * 3000, b"\n" * 300, b"1,5", b"1_000", b"0x10",
)  # fmt: skip
_NUMBERS = (
    b"0", b"-1", b"1", b"2", b"3", b"7", b"255", b"0.", b".5", b"1e400", b"-1e400", b"nan", b"inf", b"NaN", b"Infinity",
    b"2147483647", b"2147483648", b"-2147483649", b"18446744073709551616", b"9" * 400,
)  # fmt: skip
_BYTES = (0, 1, 9, 10, 13, 27, 32, 34, 48, 57, 127, 128, 192, 255)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")

Change = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def damaged(draw: random.Random, good: Sequence[bytes]) -> bytes:
    """Returns one of some good files with a few changes."""
    data = draw.choice(good)
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        data = draw.choice(_CHANGES)(draw, data, good)[: 1 << 20]
    return _stretch(draw, data)[: 1 << 20] if draw.random() < 0.02 else data


def _place(draw: random.Random, data: bytes) -> int:
    return draw.randint(0, len(data))


def _insert(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    place = _place(draw, data)
    return data[:place] + draw.choice(TOKENS + _NUMBERS) + data[place:]


def _set_byte(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    if not data:
        return data
    place = draw.randrange(len(data))
    return data[:place] + bytes([draw.choice(_BYTES)]) + data[place + 1 :]


def _flip(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    if not data:
        return data
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def _cut_out(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    first = _place(draw, data)
    return data[:first] + data[first + draw.choice((1, 2, 4, 16, 100, 1000)) :]


def _end_early(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    return data[: _place(draw, data)]


def _repeat(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    first = _place(draw, data)
    part = data[first : first + draw.choice((1, 8, 60, 400))]
    return data[:first] + part * draw.choice((2, 3, 30, 500)) + data[first:]


def _stretch(draw: random.Random, data: bytes) -> bytes:
    """Repeats a word, a line or a token very often: what takes the square of a length is found by it."""
    first = _place(draw, data)
    part = draw.choice((data[first : first + draw.randint(1, 12)], b" ", b"\t", b",", b"[", draw.choice(TOKENS)[:20]))
    return data[:first] + part * draw.choice((3000, 30_000, 300_000)) + data[first:]


def _change_number(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data[:100_000]))
    if not found:
        return _insert(draw, data, good)
    number = draw.choice(found)
    return data[: number.start()] + draw.choice(_NUMBERS) + data[number.end() :]


def _swap_lines(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    first, second = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def _splice(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    other = draw.choice(good)
    return data[: _place(draw, data)] + other[_place(draw, other) :]


def _change_json(draw: random.Random, data: bytes, good: Sequence[bytes]) -> bytes:
    """Replaces or removes a value somewhere inside JSON; anything else gets a new number."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return _change_number(draw, data, good)
    return json.dumps(changed_within(draw, tree, odd_value)).encode("utf-8", "surrogatepass")


def changed_within(draw: random.Random, tree: object, value: Callable[[random.Random, int], object]) -> object:
    """Replaces or removes a value somewhere inside dictionaries and lists, which are changed; returns the whole.

    Args:
        draw: decides.
        tree: the whole.
        value: draws a new value, containers at most so deep.
    """
    holder, key = {"": tree}, ""
    here: object = holder
    steps = draw.randint(1, 7)
    for _ in range(steps):
        below = here[key]  # type: ignore[index]
        if isinstance(below, dict) and below:
            here, key = below, draw.choice(sorted(below, key=str))
        elif isinstance(below, list) and below:
            here, key = below, draw.randrange(len(below))  # type: ignore[assignment]
        else:
            break
    if isinstance(here, dict) and here is not holder and draw.random() < 0.2:
        del here[key]
    else:
        here[key] = value(draw, 3)  # type: ignore[index]
    return holder.get("")


def odd_value(draw: random.Random, depth: int) -> object:
    """Draws a value that readers may stumble over, containers at most so deep."""
    kind = draw.randrange(9 if depth else 7)
    if kind == 7:
        return [odd_value(draw, depth - 1) for _ in range(draw.randint(0, 4))]
    if kind == 8:
        names = ("a", "cfg", "name", "\x1b[2J", "")
        return {draw.choice(names): odd_value(draw, depth - 1) for _ in range(draw.randint(0, 4))}
    plain: tuple[object, ...] = (
        None,
        draw.random() < 0.5,
        draw.choice((0, 1, -1, 2**31, -(2**63), 10**400)),
        draw.choice((0.5, -0.0, 1e308, float("nan"), float("inf"))),
        draw.choice(("", "a\nb", "\x1b]0;x\x07", "\u202e", "\ud800")),
        "x" * draw.choice((1, 300, 70_000)),
        draw.choice(("..", "/etc/passwd", "a" * 64, "darkprune-plan/1")),
    )
    return plain[kind]


_CHANGES: tuple[Change, ...] = (
    _insert, _set_byte, _flip, _cut_out, _end_early, _repeat, _change_number, _change_number, _swap_lines, _splice,
    _change_json, _change_json,
)  # fmt: skip


_KEYS = (
    "filters", "size", "stride", "pad", "padding", "groups", "batch_normalize", "activation", "layers", "from",
    "classes", "num", "mask", "anchors", "coords", "output", "hidden", "stride_x", "stride_y", "dilation",
    "share_index", "antialiasing", "group_id", "weights_type", "weights_normalization", "maxpool_depth",
    "out_channels", "reverse", "crop_height", "crop_width", "embedding_layer", "tree", "map", "side",
    "scale_x_y", "nms_kind", "atoms", "probability",
)  # fmt: skip
_VALUES = (
    "0", "1", "2", "3", "8", "16", "-1", "-2", "-3", "-9", "leaky", "linear", "mish", "relu6", "0,1,2", "-1,-3",
    "10,14,23,27", "1.05", "per_channel", "softmax", "center",
)  # fmt: skip


def random_cfg(draw: random.Random, sections: Sequence[str]) -> bytes:
    """Returns a cfg of random sections and keys, mostly with values that make sense."""
    lines = ["[net]", f"width={draw.choice((1, 16, 32, 416))}", f"height={draw.choice((1, 16, 32))}", "channels=3"]
    for _ in range(draw.randint(1, 9)):
        lines.append(f"[{draw.choice(sections)}]")
        for _ in range(draw.randint(0, 5)):
            odd = draw.random() < 0.08
            value = draw.choice(TOKENS).decode("latin-1") if odd else draw.choice(_VALUES)
            lines.append(f"{draw.choice(_KEYS)}={value}")
    return "\n".join(lines).encode("utf-8")
