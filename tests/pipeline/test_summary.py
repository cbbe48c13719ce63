"""What a run of `compress` says of its result."""

from __future__ import annotations

from typing import Any

from darkprune.pipeline.summary import verdict_on


def row(network: str, map50: float | None, macs: int) -> dict[str, Any]:
    return {"network": network, "map50": map50, "macs": macs}


ORIGINAL, CONTROL = row("original", 0.6, 100), row("original at 96x96", 0.4, 50)


def test_training_that_did_harm_is_told() -> None:
    rows = [ORIGINAL, row("pruned", 0.3, 50), row("recovered", 0.55, 50), row("distilled", 0.5, 50), CONTROL]
    (told,) = verdict_on(rows)
    assert "the result has 50.0 % mAP" in told
    assert "(recovered) 55.0 %" in told


def test_what_may_be_chance_is_not() -> None:
    assert verdict_on([ORIGINAL, row("recovered", 0.502, 50), row("distilled", 0.5, 50), CONTROL]) == []
    assert verdict_on([ORIGINAL, row("sparse", 0.7, 100), row("pruned", 0.5, 50), CONTROL]) == []
    assert verdict_on([ORIGINAL, row("recovered", None, 50), row("distilled", None, 50)]) == []


def test_a_smaller_input_that_is_better_is_told() -> None:
    (told,) = verdict_on([ORIGINAL, row("pruned", 0.3, 50), CONTROL])
    assert "take the smaller input" in told
