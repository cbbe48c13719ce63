"""JSON of result folders, which anyone may have written: bounded, and of unknown shape."""

from __future__ import annotations

import json
import math
from pathlib import Path

from darkprune.data.files import read_bytes
from darkprune.errors import DataError

MAX_BYTES = 64 << 20


class JsonValue:
    """A JSON value of unknown shape: every question has an answer, if only None."""

    def __init__(self, value: object = None) -> None:
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


def read_json(path: Path) -> JsonValue:
    """Reads a JSON file.

    Raises:
        DataError: it cannot be read, or is not JSON.
    """
    data = read_bytes(path, MAX_BYTES, "a JSON file of darkprune")
    try:
        return JsonValue(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({str(error)[:80]})") from None
