"""JSON files: one reader for what anybody may have written, one writer that leaves whole files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from darkprune.darknet.input import read_file
from darkprune.darknet.output import atomic_file
from darkprune.errors import DarkpruneError, DataError

MAX_BYTES = 64 << 20
MAX_DEPTH = 64  #: objects and lists within each other


class JsonValue:
    """A JSON value of unknown shape: whatever is asked of it has an answer, so that nothing in a file is trusted."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __getitem__(self, key: str) -> JsonValue:
        return JsonValue(self.value.get(key) if isinstance(self.value, dict) else None)

    def __bool__(self) -> bool:
        return bool(self.value)

    @property
    def items(self) -> list[JsonValue]:
        """The entries of a list; of anything else none."""
        return [JsonValue(entry) for entry in self.value] if isinstance(self.value, list) else []

    @property
    def fields(self) -> dict[str, JsonValue]:
        """The entries of an object; of anything else none."""
        return {str(k): JsonValue(v) for k, v in self.value.items()} if isinstance(self.value, dict) else {}

    @property
    def text(self) -> str:
        """A text; of anything else ``."""
        return self.value if isinstance(self.value, str) else ""

    @property
    def texts(self) -> list[str]:
        """The texts of a list."""
        return [entry.text for entry in self.items if entry.text]

    @property
    def number(self) -> float | None:
        """A finite number."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:
            return None


def read_json(
    path: Path,
    what: str = "a JSON file of darkprune",
    max_bytes: int = MAX_BYTES,
    error: type[DarkpruneError] = DataError,
    *,
    allow_nan: bool = False,
) -> JsonValue:
    """Reads a JSON file.

    Args:
        what: what it should be, for the error ("a plan").
        allow_nan: see `parse_json`.

    Raises:
        DarkpruneError: it cannot be read, is too large, is not JSON, or is nested deeper than `MAX_DEPTH`.
    """
    return parse_json(read_file(path, max_bytes, what, error), str(path), error, allow_nan=allow_nan)


def parse_json(
    raw: bytes | str, source: str, error: type[DarkpruneError] = DataError, *, allow_nan: bool = False
) -> JsonValue:
    """Reads JSON text.

    Args:
        allow_nan: take NaN and Infinity, which JSON does not have but many programs write.

    Raises:
        DarkpruneError: it is not JSON, holds NaN or Infinity, or is nested deeper than `MAX_DEPTH`.
    """
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        value: object = json.loads(text, parse_constant=None if allow_nan else _refuse)
        _check_depth(value)
    except RecursionError:
        raise error(f"{source}: is nested too deeply") from None
    except ValueError as trouble:
        raise error(f"{source}: is not JSON ({str(trouble)[:80]})") from None
    return JsonValue(value)


def find_json(path: Path, max_bytes: int = MAX_BYTES) -> JsonValue | None:
    """Reads a JSON file that may be missing or damaged, such as a cache; None where it is."""
    try:
        return read_json(path, max_bytes=max_bytes)
    except DataError:
        return None


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Writes a JSON file as a whole: until it is complete, an earlier one stays.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path, overwrite=True) as file:
        file.write(encode_json(data))


def encode_json(data: Mapping[str, object]) -> bytes:
    """Returns an object as the bytes of a file.

    Raises:
        ValueError: it holds a number that JSON has no form for (NaN, infinity).
    """
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _check_depth(value: object, left: int = MAX_DEPTH) -> None:
    """Raises ValueError where containers are nested deeper than `MAX_DEPTH`."""
    if not left:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(part, dict | list):
            _check_depth(part, left - 1)
