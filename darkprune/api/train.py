"""`train` and `distill`: training on labels, and from the network that a student was cut from."""

from __future__ import annotations

from pathlib import Path

from darkprune.api.pair import Network, Pair, on_disk
from darkprune.progress import Progress, reporting
from darkprune.settings import PathLike
from darkprune.surgery.surgery import Surgery
from darkprune.training.result import TrainResult
from darkprune.training.settings import DistillSettings, TrainSettings


def train(
    network: Network,
    data: PathLike,
    output: PathLike,
    settings: TrainSettings | None = None,
    *,
    progress: Progress | None = None,
) -> TrainResult:
    """Trains a network on labelled images.

    Ctrl-C ends the run after the step that it is in: `TrainResult.stopped` is true, and `resume=True` continues
    with the same result as a run that was not interrupted.

    Args:
        network: a pair, or a surgery that is not saved yet; a pair without weights starts from fresh ones.
        data: a .data file, an image list, a Pascal VOC folder, or COCO JSON; a .data file for a classifier.
        output: folder for weights, state, log and curves.
        settings: how; by default as the cfg's training keys say.
        progress: gets an event after every step; by default a bar is shown where a person can see it.

    Raises:
        DarkpruneError: something cannot be read, trained or written.
    """
    from darkprune.training.tasks import train_network

    with reporting(progress), on_disk(network) as pair:
        return train_network(pair.graph, pair.weights, data, Path(output), settings or TrainSettings())


def distill(
    teacher: Pair,
    student: Network,
    output: PathLike,
    settings: DistillSettings | None = None,
    *,
    progress: Progress | None = None,
) -> TrainResult:
    """Trains a pruned network to compute what the original computes.

    Args:
        teacher: the original.
        student: the network that was cut from it: a pair, or a surgery that is not saved yet.
        output: folder for weights, state, log and curves.
        settings: on which images (`data` or `unlabelled`), and how.
        progress: see `train`.

    Raises:
        DarkpruneError: something cannot be read, trained or written.
    """
    from darkprune.training.tasks import distil_network

    with reporting(progress), on_disk(student) as pair:
        return distil_network(
            (teacher.graph, teacher.weights_file),
            (pair.graph, pair.weights_file),
            Path(output),
            settings or DistillSettings(),
            plan=student.plan if isinstance(student, Surgery) else None,
        )
