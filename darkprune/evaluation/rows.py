"""Arrays that belong together: entry i of each is about the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Rows = TypeVar("_Rows", bound="Rows")


@dataclass(frozen=True, eq=False)
class Rows:
    """Base of dataclasses whose fields are equally long arrays."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def select(self: _Rows, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> _Rows:
        """Returns those where `rows`, (n,) bool, is true, or those of given numbers, in their order."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def join(cls: type[_Rows], parts: Sequence[_Rows]) -> _Rows:
        """Returns at least one part, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))
