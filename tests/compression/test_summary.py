"""What a run of `compress` says of its result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from darkprune.compression.stages import Compression, Pair
from darkprune.compression.summary import best_of, verdict_on
from darkprune.runs.record_file import RecordFile


def row(network: str, map50: float | None, macs: int, result: bool = False) -> dict[str, Any]:
    return {"network": network, "map50": map50, "macs": macs, "distance": None, "result": result}


ORIGINAL, CONTROL = row("original", 0.6, 100), row("original at 96x96", 0.4, 50)


def best(**measured: dict[str, float]) -> str:
    """Returns the name of the result of a run whose slim networks were measured so."""
    pairs = [Pair(name, Path(name), Path(name), name) for name in measured]
    entries = {f"evaluate: {name}": SimpleNamespace(done=True, result=figures) for name, figures in measured.items()}
    plan: Compression = SimpleNamespace(candidates=lambda: pairs, current=pairs[-1])  # type: ignore[assignment]
    manifest: RecordFile = SimpleNamespace(records=entries)  # type: ignore[assignment]
    return best_of(plan, manifest).name


@pytest.mark.parametrize("kind", ["map50", "distance"])
def test_the_result_is_the_best(kind: str) -> None:
    def of(loss: float) -> dict[str, float]:
        return {kind: 1 - loss if kind == "map50" else loss}

    assert best(pruned=of(0.7), recovered=of(0.45), distilled=of(0.5)) == "recovered"
    assert best(pruned=of(0.7), recovered=of(0.5), distilled=of(0.45)) == "distilled"
    assert best(pruned=of(0.7), recovered=of(0.498), distilled=of(0.5)) == "distilled"  # may be chance
    assert best(pruned=of(0.2), recovered=of(0.4), distilled=of(0.5)) == "pruned"


def test_without_measurements_it_is_the_last() -> None:
    assert best(pruned={}, recovered={}) == "recovered"


def test_training_that_did_harm_is_told() -> None:
    rows = [ORIGINAL, row("pruned", 0.3, 50), row("recovered", 0.55, 50, True), row("distilled", 0.5, 50), CONTROL]
    (told,) = verdict_on(rows)
    assert "distilled is worse (50.0 % mAP) than recovered (55.0 % mAP), which is taken as the result" in told


def test_what_is_the_result_is_not_harm() -> None:
    assert verdict_on([ORIGINAL, row("recovered", 0.502, 50), row("distilled", 0.5, 50, True), CONTROL]) == []
    assert verdict_on([ORIGINAL, row("sparse", 0.7, 100), row("pruned", 0.5, 50, True), CONTROL]) == []
    assert verdict_on([ORIGINAL, row("recovered", None, 50), row("distilled", None, 50, True)]) == []


def test_a_smaller_input_that_is_better_is_told() -> None:
    (told,) = verdict_on([ORIGINAL, row("pruned", 0.3, 50, True), CONTROL])
    assert "take the smaller input" in told
