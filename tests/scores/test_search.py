"""Plans improved against the output distance."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from darkprune.cli.main import main
from darkprune.data.samples import Samples
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights
from darkprune.search import plan_search as search
from darkprune.search.goal import Goal
from darkprune.search.plan_search import PlanSearch, improve
from darkprune.selection.budget import parse_budget
from darkprune.selection.decide import rank
from darkprune.selection.settings import Selection

SETTINGS = Selection(allocation="global", min_channels=2)


def improved(weights: NetworkWeights, samples: Samples, seconds: float, seed: int = 0) -> PlanSearch:
    """Searches with a clock that ticks whenever it is looked at."""
    ticks = count()
    budget = parse_budget("macs", "0.8", totals(weights.graph))
    ranking = rank(weights, SETTINGS)
    goal = Goal(budget=budget, recover="bn", minutes=seconds / 60, seed=seed)
    return improve(weights, ranking, SETTINGS, samples, goal, clock=lambda: next(ticks))


def test_improves_and_is_repeatable(weights: NetworkWeights, samples: Samples) -> None:
    first, again = improved(weights, samples, 20), improved(weights, samples, 20)
    assert first.trials == again.trials > 5
    assert first.kept > 0
    assert first.best < first.start
    assert np.array_equal(first.ranking.members.score, again.ranking.members.score)
    assert improved(weights, samples, 6).trials < first.trials


def test_ctrl_c_keeps_the_best(weights: NetworkWeights, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = improved(weights, samples, 16)
    distance, calls = search._PlanEvaluation.distance, count()

    def stop(self: search._PlanEvaluation, ranking: object) -> float:
        if next(calls) == whole.trials // 2:
            raise KeyboardInterrupt
        return distance(self, ranking)  # type: ignore[arg-type]

    monkeypatch.setattr(search._PlanEvaluation, "distance", stop)
    found = improved(weights, samples, 16)
    assert found.interrupted
    assert found.trials == whole.trials // 2
    assert whole.best <= found.best <= found.start


def test_on_the_command_line(
    weights: NetworkWeights, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [weights.graph.cfg.source, str(weights.file.path), "--min-channels", "2", "--images", str(images)]
    more = ["--criterion", "sensitivity", "--target-macs", "0.9", "--recover", "lsq", "--search-minutes", "0.02"]
    assert main(["prune", *pair, *more, "-o", str(tmp_path / "slim"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["search"]
    assert found == json.loads((tmp_path / "slim" / "report.json").read_text())["search"]
    assert found["trials"] >= 1
    assert found["best"] <= found["start"]
    wrong = ["--criterion", "bn_gamma", "--target-macs", "0.8", "--search-minutes", "1"]
    assert main(["prune", *pair, *wrong, "-o", str(tmp_path / "other")]) == 2
    assert "--criterion sensitivity" in capsys.readouterr().err
