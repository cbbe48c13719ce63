"""The bytes of a network: darknet's cfg lexer (option_list.c, read_cfg) and the header of a .weights file."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import numpy as np

_INTEGER_PREFIX = re.compile(r"[+-]?\d+")
_NUMBER_PREFIX = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

ALIASES = {
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "local_avg": "local_avgpool",
    "avg": "avgpool",
    "lrn": "normalization",
    "soft": "softmax",
    "silence": "empty",
    "network": "net",
}


def integer_prefix(text: str) -> int:
    """C's atoi: `5.9` is 5, `1e3` is 1, garbage is 0."""
    match = _INTEGER_PREFIX.match(text)
    return int(match.group()) if match else 0


def number_prefix(text: str) -> float:
    """C's atof stored in a float: `.5 # half` is 0.5, garbage is 0."""
    match = _NUMBER_PREFIX.match(text)
    return float(np.float32(match.group())) if match else 0.0


class Options(dict[str, "str | None"]):
    """The `key=value` lines of one section; a key without `=` has the value None and counts as absent."""

    def text(self, key: str, default: str) -> str:
        value = self.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int) -> int:
        value = self.get(key)
        return default if value is None else integer_prefix(value)

    def number(self, key: str, default: float) -> float:
        value = self.get(key)
        return float(np.float32(default)) if value is None else number_prefix(value)

    def integers(self, key: str, *, stop_at_hash: bool = False) -> list[int] | None:
        """A list has one element more than commas; the heads' `mask` stops counting at a `#`, other lists do not."""
        value = self.get(key)
        if value is None:
            return None
        counted = value.split("#")[0] if stop_at_hash else value
        return [integer_prefix(part) for part in value.split(",")[: counted.count(",") + 1]]


def read_sections(cfg_text: str) -> list[tuple[str, Options]]:
    """Splits a cfg into (section name, options); the first one is `net`.

    Raises:
        ValueError: where darknet stops or crashes (a key before any section, no [net]).
    """
    sections: list[tuple[str, Options]] = []
    for line in cfg_text.split("\n"):
        bare = re.sub(r"[ \t\r]", "", line)
        if bare == "" or bare[0] in "#;":
            continue
        if bare[0] == "[":
            # The whole stripped line is the name, so `[maxpool] # x` is an unknown section, as in darknet.
            name = bare[1:-1] if bare.endswith("]") else bare
            sections.append((ALIASES.get(name, name), Options()))
            continue
        if not sections:
            raise ValueError(f"key before any section: {line!r}")
        key, equals, value = bare.partition("=")
        if equals and not value:
            continue  # "Config file error line N": darknet drops the key
        sections[-1][1].setdefault(key, value if equals else None)
    if not sections or sections[0][0] != "net":
        raise ValueError("the first section must be [net] or [network]")
    return sections


@dataclass
class FloatStream:
    """The float32 payload of a .weights file, taken tensor by tensor.

    Layout: int32 major, minor, revision; `seen` as uint64 if major*10+minor >= 2, else uint32; then floats only.
    """

    values: np.ndarray
    seen: int
    transposed: bool  # files of 2013-2014 store [connected] weights input-major
    position: int = 0

    @classmethod
    def parse(cls, data: bytes) -> FloatStream:
        if len(data) < 16:
            raise ValueError(f"a weights file has at least 16 bytes, this has {len(data)}")
        major, minor, _revision = struct.unpack_from("<3i", data)
        wide = major * 10 + minor >= 2
        if wide and len(data) < 20:
            raise ValueError(f"a weights file of version {major}.{minor} has at least 20 bytes, this has {len(data)}")
        (seen,) = struct.unpack_from("<Q" if wide else "<I", data, 12)
        payload = data[20 if wide else 16 :]
        if len(payload) % 4:
            raise ValueError(f"{len(payload)} bytes after the header are not a whole number of floats")
        return cls(np.frombuffer(payload, "<f4"), seen, major > 1000 or minor > 1000)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        if self.position + count > self.values.size:
            raise ValueError(f"weights end at float {self.values.size}, float {self.position + count} is wanted")
        self.position += count
        return self.values[self.position - count : self.position].reshape(shape).copy()

    def finish(self) -> None:
        if self.position != self.values.size:
            raise ValueError(f"{self.values.size - self.position} floats are left over after the last layer")
