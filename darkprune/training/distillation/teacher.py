"""The original as the teacher of what was cut from it: the objective of a distillation, and what makes it this one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from darkprune.graph.graph import Graph
from darkprune.runs.digests import digest_of_file
from darkprune.training.distillation.distillation import DistillationObjective, DistillationSettings
from darkprune.training.distillation.taps import Tap
from darkprune.training.loop.objective import DetectionObjective, Objective
from darkprune.training.loop.start import open_network


@dataclass(frozen=True)
class Teacher:
    """A network that another learns from.

    Attributes:
        graph: of the teacher, at the student's input size.
        weights: its file.
        taps: maps that are compared.
        settings: of the losses.
        labelled: whether the student sees labels too.
    """

    graph: Graph
    weights: Path
    taps: tuple[Tap, ...]
    settings: DistillationSettings
    labelled: bool

    def objective(self, student: Graph, device: torch.device) -> Objective:
        """Makes what the student minimises.

        Raises:
            TrainingError, WeightsError: the two do not go together, or the teacher cannot be read.
        """
        network = open_network(self.graph, self.weights, device, 0)
        hard = DetectionObjective(student) if self.labelled else None
        return DistillationObjective(student, network.fuse(), self.taps, self.settings, hard)

    def identity(self) -> dict[str, Any]:
        """Returns what a run that goes on has to have in common with its beginning."""
        return {
            "teacher": digest_of_file(self.weights),
            "taps": [list(asdict(tap).values()) for tap in self.taps],
            "distillation": asdict(self.settings),
        }
