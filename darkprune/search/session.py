"""Unlabelled images in `darkprune prune`: scores before the cut, recovery and output distance after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from darkprune.data.samples import read_samples
from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.progress import Progress, silent
from darkprune.refit.recover import Recovery, images_for, recover
from darkprune.scores import map_moments, sensitivity, surgeon, thinet
from darkprune.search import eagle_eye, plan_search, rounds
from darkprune.search.choice import Effort
from darkprune.selection.budget import Budget
from darkprune.selection.decide import Ranking
from darkprune.selection.filter_moments import MomentsOf
from darkprune.selection.importance import ImageScores
from darkprune.selection.settings import Selection
from darkprune.surgery.surgery import ScratchFile, Surgery


class Session:
    """A user's images, and what is done with them around one cut."""

    def __init__(self, source: Path, graph: Graph, how: str, progress: Progress = silent, seed: int = 0) -> None:
        """Finds and checks the images.

        Args:
            source: a folder or a list of images.
            graph: the unpruned network.
            how: method of recovery.
            progress: gets the steps of everything that is done.
            seed: of the division into images to fit and images held out.

        Raises:
            DataError, UsageError: see `read_samples`.
        """
        self.how = how
        self._wanted = max(sensitivity.IMAGES, images_for(how, graph))
        self.samples = read_samples(source, graph, most=self._wanted, seed=seed)
        self._progress = progress
        self._moments: MomentsOf | None = None
        self.found: plan_search.PlanSearch | None = None

    def warnings(self) -> list[str]:
        """Lists the images that were left out, and says where there are few."""
        return self.samples.warnings(sensitivity.IMAGES, self._wanted)

    def scorer(self, criterion: str) -> Callable[[TensorSource, ChannelMap], ImageScores]:
        """Returns what scores a network's channels on the images.

        Args:
            criterion: of `IMAGE_CRITERIA`; `sensitivity` is `surgeon` where a refit follows, else `first-order`.
        """
        sample = self.samples.fit.first(sensitivity.IMAGES)
        score = sensitivity.score_by_effect
        if criterion == "thinet":
            score = thinet.score_by_reconstruction
        elif criterion == "surgeon" or (criterion == "sensitivity" and self.how == "lsq"):
            score = surgeon.score_by_surgeon
        return lambda weights, channels: score(weights, channels, sample, self._progress)

    def moments(self, weights: TensorSource, channels: ChannelMap) -> MomentsOf:
        """Measures which channels explain which; see `darkprune.scores.map_moments`.

        Measured once: a session is about one network.
        """
        if self._moments is None:
            sample = self.samples.fit.first(map_moments.IMAGES)
            self._moments = map_moments.map_moments(weights, channels, sample, self._progress)
        return self._moments

    def rank_in_rounds(self, weights: NetworkWeights, settings: Selection, budget: Budget, number: int) -> Ranking:
        """Ranks by sensitivity, scored anew on the way to a budget; see `darkprune.search.rounds`."""
        return rounds.rank_in_rounds(weights, settings, budget, self.samples, number, self._progress, self.moments)

    def improve(
        self,
        weights: NetworkWeights,
        settings: Selection,
        ranking: Ranking,
        budget: Budget,
        minutes: float,
        seed: int = 0,
    ) -> Ranking:
        """Improves a ranking against the output distance; see `darkprune.search.plan_search`."""
        self.found = plan_search.improve(
            weights,
            settings,
            ranking,
            budget,
            self.samples,
            self.how,
            seconds=60 * minutes,
            seed=seed,
            progress=self._progress,
        )
        return self.found.ranking

    def search(
        self, weights: NetworkWeights, settings: Selection, budget: Budget, effort: Effort
    ) -> eagle_eye.AllocationSearch:
        """Finds the best of many random allocations; see `darkprune.search.eagle_eye`."""
        return eagle_eye.search(weights, settings, budget, self.samples, effort, self._progress, self.moments)

    def recover(self, surgery: Surgery) -> tuple[Surgery, Recovery]:
        """Repairs the slim weights, and measures the output distance before and after.

        Args:
            surgery: what was cut.

        Returns:
            The surgery with the repaired weights, and what the repair did.
        """
        scratch = ScratchFile("slim.weights")
        with scratch.path.open("wb", buffering=0) as file:
            surgery.write_weights(file)
        done = self._recover(surgery, scratch.path)
        findings = {"recovery": done.to_json(), "search": self.found.to_json() if self.found else None}
        return replace(surgery, recovered=scratch, findings={**surgery.findings, **findings}), done

    def recover_file(self, surgery: Surgery, slim: Path) -> None:
        """Repairs the slim weights file of a surgery in place."""
        self._recover(surgery, slim)

    def _recover(self, surgery: Surgery, slim: Path) -> Recovery:
        return recover(surgery, slim, self.samples, self.how, self._progress)
