"""Types of JSON documents whose shape the code that writes or reads them knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
#: one that is only read
JsonMapping: TypeAlias = Mapping[str, Any]
