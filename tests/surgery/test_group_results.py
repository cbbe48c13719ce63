"""What is said of a decision: layers at their floors, groups that lose strong channels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from darkprune.selection.summary import describe_sparsity, floor_warnings
from darkprune.surgery.plan import GroupResult


@pytest.mark.parametrize(
    ("layers", "start"),
    [
        ([3], "layer 3 is at its floor: "),
        ([3, 5], "2 layers (3, 5) are at their floor: "),
        (list(range(8)), "8 layers (0, 1, 2, 3, 4, 5, 6, 7) are at their floor: "),
        (list(range(9)), "9 layers (0, 1, 2, 3, 4, 5, 6, 7 …) are at their floor: "),
    ],
)
def test_layers_at_their_floor(layers: list[int], start: str) -> None:
    (warning,) = floor_warnings(layers)
    assert warning.startswith(start)


def test_no_layer_at_its_floor() -> None:
    assert floor_warnings([]) == []


@pytest.mark.parametrize(
    ("threshold", "median", "said"),
    [
        (0.26, 1.0, "cuts |γ| up to 0.26, median 1"),
        (0.25, 1.0, ""),
        (None, 1.0, ""),
        (0.9, None, ""),
    ],
)
def test_a_group_that_loses_strong_channels(threshold: float | None, median: float | None, said: str) -> None:
    fields = dict.fromkeys(GroupResult.__dataclass_fields__, 0)
    sparse = replace(GroupResult(**fields), threshold=0.01, median=1.0)  # type: ignore[arg-type]
    assert describe_sparsity([sparse, replace(sparse, threshold=threshold, median=median)]) == said
