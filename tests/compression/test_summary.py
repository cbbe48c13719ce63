"""What a run of `compress` says of its result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from darkprune.compression.network import RunNetwork
from darkprune.compression.run import Compression
from darkprune.compression.summary import NetworkFigures, best_of, verdict_on


def figures(network: str, map50: float | None, macs: int, result: bool = False) -> NetworkFigures:
    return NetworkFigures(network=network, map50=map50, params=1, macs=macs, bytes=4, result=result)


ORIGINAL, CONTROL = figures("original", 0.6, 100), figures("original at 96x96", 0.4, 50)


def best(**measured: dict[str, float]) -> str:
    """Returns the name of the result of a run whose slim networks were measured so."""
    networks = [RunNetwork(name, Path(name), Path(name), name) for name in measured]
    records = {f"evaluate: {name}": SimpleNamespace(done=True, result=figures) for name, figures in measured.items()}
    run: Compression = SimpleNamespace(  # type: ignore[assignment]
        records=SimpleNamespace(records=records)
    )
    return best_of(run, networks).name


@pytest.mark.parametrize("kind", ["map50", "agreement", "distance"])
def test_the_result_is_the_best(kind: str) -> None:
    def of(loss: float) -> dict[str, float]:
        return {kind: loss if kind == "distance" else 1 - loss}

    assert best(pruned=of(0.7), recovered=of(0.45), distilled=of(0.5)) == "recovered"
    assert best(pruned=of(0.7), recovered=of(0.5), distilled=of(0.45)) == "distilled"
    assert best(pruned=of(0.7), recovered=of(0.498), distilled=of(0.5)) == "distilled"  # may be chance
    assert best(pruned=of(0.2), recovered=of(0.4), distilled=of(0.5)) == "pruned"


def test_without_measurements_it_is_the_last() -> None:
    assert best(pruned={}, recovered={}) == "recovered"


def test_training_that_did_harm_is_told() -> None:
    pruned, recovered = figures("pruned", 0.3, 50), figures("recovered", 0.55, 50, True)
    (told,) = verdict_on([ORIGINAL, pruned, recovered, figures("distilled", 0.5, 50), CONTROL])
    assert "distilled is worse (50.0 % mAP) than recovered (55.0 % mAP), which is taken as the result" in told
    assert "--skip distill saves the time" in told
    (told,) = verdict_on([ORIGINAL, pruned, recovered, figures("finetuned directly", 0.5, 50), CONTROL])
    assert "--set finetune.epochs=…) may help; --skip finetune saves the time" in told


def test_what_is_the_result_is_not_harm() -> None:
    assert verdict_on([ORIGINAL, figures("recovered", 0.502, 50), figures("distilled", 0.5, 50, True), CONTROL]) == []
    assert verdict_on([ORIGINAL, figures("sparse", 0.7, 100), figures("pruned", 0.5, 50, True), CONTROL]) == []
    assert verdict_on([ORIGINAL, figures("recovered", None, 50), figures("distilled", None, 50, True)]) == []


def test_a_smaller_input_that_is_better_is_told() -> None:
    (told,) = verdict_on([ORIGINAL, figures("pruned", 0.3, 50, True), CONTROL])
    assert "take the smaller input, train for longer (--set distill.epochs=…), or ask for less" in told
    tuned = figures("finetuned", 0.35, 50, True)
    (told,) = verdict_on([ORIGINAL, figures("pruned", 0.3, 50), tuned, CONTROL])
    assert "train for longer (--set finetune.epochs=…), or ask for less" in told


def test_a_result_that_takes_longer_is_told() -> None:
    before, result = replace(ORIGINAL, ms=7.1), replace(figures("pruned", 0.7, 50, True), ms=8.66, control_ms=6.2)
    (told,) = verdict_on([before, result])
    assert "slower on this machine than the original: 8.7 ms an image, 7.1 before" in told
    assert told.endswith("; the original at a smaller input with as many operations takes 6.2 ms")
    (told,) = verdict_on([before, replace(result, control_ms=None)])
    assert told.endswith("7.1 before")
    for ms in (7.1, 7.0, None):
        assert verdict_on([before, replace(result, ms=ms)]) == []
    assert verdict_on([ORIGINAL, result]) == []
