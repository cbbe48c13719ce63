"""Unlabelled images in `darkprune prune`: scores before the cut, recovery and output distance after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.network.samples import read_samples
from darkprune.refit.recover import Recovery, images_for, recover, steps_of
from darkprune.scores import map_moments, sensitivity, surgeon, thinet
from darkprune.search import eagle_eye, rounds
from darkprune.search import plan_search as search
from darkprune.search.eagle_eye import Search
from darkprune.selection.budget import Budget
from darkprune.selection.decide import Ranking
from darkprune.selection.filter_moments import MomentsOf
from darkprune.selection.importance import ImageScores
from darkprune.selection.settings import Selection
from darkprune.surgery.surgery import ScratchFile, Surgery

STEPS = 100  #: of the bar of a search, whose end is a time


class Bar(Protocol):
    """A progress bar."""

    def update(self) -> object:
        """Moves on by a step."""
        ...


#: called with (what is done, steps) gives a bar to move on after each step
Progress = Callable[[str, int], AbstractContextManager[Bar]]


class Session:
    """A user's images, and what is done with them around one cut."""

    def __init__(self, source: Path, graph: Graph, how: str, progress: Progress, seed: int = 0) -> None:
        """Finds and checks the images.

        Args:
            source: a folder or a list of images.
            graph: the unpruned network.
            how: method of recovery.
            progress: makes progress bars.
            seed: of the division into images to fit and images held out.

        Raises:
            DataError, UsageError: see `read_samples`.
        """
        self.how = how
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._wanted = max(sensitivity.IMAGES, images_for(how, graph))
        self.samples = read_samples(source, graph, device, most=self._wanted, seed=seed)
        self._progress = progress
        self._moments: MomentsOf | None = None
        self.found: search.Found | None = None

    def warnings(self) -> list[str]:
        """Lists the images that were left out, and says where there are few."""
        bad = self.samples.unreadable
        found = [*bad[:5], *([f"… and {len(bad) - 5} more images cannot be read"] if len(bad) > 5 else [])]
        if len(self.samples.fit) < sensitivity.IMAGES:
            found.append(
                f"{len(self.samples.fit)} images to fit on and {len(self.samples.held_out)} to measure on are few; "
                f"up to {self._wanted} and 64 are made use of"
            )
        return found

    def scorer(self, criterion: str) -> Callable[[NetworkWeights, ChannelMap], ImageScores]:
        """Returns what scores a network's channels on the images.

        Args:
            criterion: of `IMAGE_CRITERIA`; `sensitivity` is `surgeon` where a refit follows, else `first-order`.
        """
        sample = self.samples.fit.first(sensitivity.IMAGES)
        batches = -(-len(sample) // sample.batch)

        def score(weights: NetworkWeights, channels: ChannelMap) -> ImageScores:
            if criterion == "thinet":
                with self._progress("scoring", batches + len(weights.graph)) as bar:
                    return thinet.score_by_reconstruction(weights, channels, sample, bar.update)
            if criterion == "surgeon" or (criterion == "sensitivity" and self.how == "lsq"):
                with self._progress("scoring", 2 * batches + len(weights.graph)) as bar:
                    return surgeon.score_by_surgeon(weights, channels, sample, progress=bar.update)
            with self._progress("scoring", 2 * batches) as bar:
                return sensitivity.score_by_effect(weights, channels, sample, progress=bar.update)

        return score

    def moments(self, weights: NetworkWeights, channels: ChannelMap) -> MomentsOf:
        """Measures which channels explain which; see `darkprune.scores.map_moments`.

        Measured once: a session is about one network.
        """
        if self._moments is None:
            sample = self.samples.fit.first(map_moments.IMAGES)
            with self._progress("measuring maps", -(-len(sample) // sample.batch)) as bar:
                self._moments = map_moments.map_moments(weights, channels, sample, bar.update)
        return self._moments

    def rank_in_rounds(self, weights: NetworkWeights, settings: Selection, budget: Budget, number: int) -> Ranking:
        """Ranks by sensitivity, scored anew on the way to a budget; see `darkprune.search.rounds`."""
        with self._progress("scoring in rounds", number) as bar:
            return rounds.rank_in_rounds(
                weights, settings, budget, self.samples, number, bar.update, moments=self.moments
            )

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
        done = 0

        with self._progress("searching", STEPS) as bar:

            def follow(share: float) -> None:
                nonlocal done
                while done < round(share * STEPS):
                    bar.update()
                    done += 1

            self.found = search.improve(
                weights,
                settings,
                ranking,
                budget,
                self.samples,
                self.how,
                seconds=60 * minutes,
                seed=seed,
                progress=follow,
            )
        return self.found.ranking

    def search(
        self,
        weights: NetworkWeights,
        settings: Selection,
        budget: Budget,
        candidates: int,
        seed: int = 0,
        jobs: int = 1,
    ) -> Search:
        """Finds the best of many random allocations; see `darkprune.search.eagle_eye`."""
        with self._progress("searching", candidates) as bar:
            return eagle_eye.search(
                weights,
                settings,
                budget,
                self.samples,
                candidates=candidates,
                seed=seed,
                jobs=jobs,
                progress=bar.update,
                moments=self.moments,
            )

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
        steps = steps_of(self.how, surgery.original.graph, surgery.base.graph, self.samples)
        with self._progress("recovering", steps) as bar:
            return recover(surgery, slim, self.samples, self.how, bar.update)
