"""`evaluate`: mAP of a network on labelled images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from darkprune.api.pair import Network, on_disk
from darkprune.data.dataset import DataProblem
from darkprune.evaluation.detector import Detector, Loading
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.evaluation.metrics.average_precision import Scoring
from darkprune.evaluation.metrics.results import EvaluateResult
from darkprune.evaluation.of_graph import labelled_for
from darkprune.graph.graph import resized
from darkprune.progress import Progress, reporting
from darkprune.runners.base import FAST_FIRST, RUNNERS, load_with_any
from darkprune.settings import PathLike, Settings, setting

MOST_SHOWN = 20  #: skipped images that are named


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Settings):
    """What is evaluated, and how."""

    split: str = setting("valid", "which part of the data", metavar="PART")
    names: PathLike | None = setting(None, "names of the classes, in order", metavar="F", default_text="the data's")
    points: int = setting(0, "recall points", choices=("0", "11", "101"), default_text="0: area")
    iou: float = setting(0.5, "overlap that counts as found", at_least=0, below=1)
    thresh: float = setting(0.25, "score for precision and recall")
    batch: int = setting(8, "images at a time")
    size: str | None = setting(None, "another input size than the cfg's", metavar="WxH")
    runner: str | None = setting(
        None, "program to run the network in", choices=tuple(RUNNERS), default_text="the first that can"
    )
    strict: bool = setting(False, "stop at the first image that cannot be read")


def evaluate(
    network: Network, data: PathLike, settings: EvaluateSettings | None = None, *, progress: Progress | None = None
) -> EvaluateResult:
    """Measures the mean average precision of a network, as `darknet detector map` does, and COCO's.

    Args:
        network: the detector.
        data: labelled images: a .data file, a list, a Pascal VOC folder, COCO JSON, a folder of images/ and labels/.
        settings: how; by default on the split `valid`.
        progress: gets events.

    Raises:
        DataError: the data cannot be used.
        GraphError: the network detects nothing.
        RunnerError: no program at hand runs it.
    """
    settings = settings or EvaluateSettings()
    graph = resized(network.graph, settings.size)
    scoring = Scoring(settings.points, settings.iou, settings.thresh)
    labelled = labelled_for(graph, data, settings.split, settings.names)
    dataset = labelled.dataset
    loading = Loading(max(1, settings.batch), strict=settings.strict)
    with on_disk(network) as pair, reporting(progress):
        runner, loaded = load_with_any(graph, pair.weights_file, settings.runner, taps=False, order=FAST_FIRST)
        detector = Detector.of(graph, loaded.head_maps)
        figures, found = evaluate_detector(detector, dataset, scoring, loading)
        odd = pair.warnings()
    return replace(
        figures,
        cfg=str(pair.cfg),
        weights=str(pair.weights_file),
        runner=runner,
        data=str(dataset.source),
        warnings=(*odd, *labelled.warnings, *skipped(found.problems, len(dataset))),
    )


def skipped(problems: tuple[DataProblem, ...], images: int) -> Iterable[str]:
    """Returns which images could not be read."""
    yield from map(str, problems[:MOST_SHOWN])
    if len(problems) > MOST_SHOWN:
        yield f"… and {len(problems) - MOST_SHOWN} more"
    if problems:
        yield f"{len(problems)} of {images} images were skipped"
