"""The figures of a run: one row per network, and what the user should know."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from darkprune.compression.network import RunNetwork
from darkprune.compression.run import Compression
from darkprune.compression.settings import FEWEST_UNLABELLED
from darkprune.evaluation.control import control_at
from darkprune.graph.stats import totals
from darkprune.json_types import JsonMapping, JsonObject
from darkprune.runners.measure import AGREEMENT, DISTANCE

ONLY_INPUT_SIZE = (
    "there are no images: the input becomes {}x{}, which costs less than pruning blindly, and nothing is pruned or "
    "measured; with --images DIR, some hundred unlabelled ones, other means are tried too (--fixed-input prunes, on "
    "drawn scenes)"
)
#: measured with yolo-fastest-1.1-xl on COCO; see docs/RESULTS.md
WITHOUT_IMAGES = (
    "there are no images: drawn scenes stand in for them, nothing is trained, and nothing is measured. On one detector "
    "of COCO that cost 4 of 39 points of mAP at 10 % fewer operations, 10 at 20 %; with --images DIR, some hundred "
    "unlabelled ones, half of that, and the loss can be seen"
)

MARGIN = 0.005  #: of mAP, agreement or distance by which an earlier network must be better: less may be chance
CONTROL = "evaluate: control"  #: the stage that measures it
#: networks that training made, and the stages that do
TRAINED = {"distilled": "distill", "finetuned": "finetune"}

WITHOUT_TORCH = (
    "torch is not installed, so that only the weights say what can go, and nothing is repaired or measured: expect to "
    "lose nearly everything unless the checkpoint was trained sparsely (pip install 'darkprune[train]' helps)"
)


@dataclass(frozen=True, kw_only=True)
class NetworkFigures:
    """The figures of one network of a run.

    Attributes:
        network: its name; that of the control says its input size.
        map50: mAP@0.5 as a fraction; None where it was not measured.
        agreement: with what the original finds, 0 to 1; None where it was not measured.
        distance: of its outputs from the original's; None where it was not measured.
        control: mAP@0.5 or agreement of the original at a smaller input with as many operations, where known.
        params: stored floats.
        macs: multiply-adds for one image.
        bytes: size of the weights file.
        ms: time of one image on this machine; None for all but the original and the result.
        control_ms: that of the original at a smaller input with as many operations as the result.
        seconds: time that its stage took; None for the original and the control.
        result: whether it is the result of the run.
    """

    network: str
    map50: float | None = None
    agreement: float | None = None
    distance: float | None = None
    control: float | None = None
    params: int
    macs: int
    bytes: int
    ms: float | None = None
    control_ms: float | None = None
    seconds: float | None = None
    result: bool = False

    @property
    def is_control(self) -> bool:
        """Whether it is the unpruned network at a smaller input."""
        return self.network.startswith("original at")

    @property
    def quality(self) -> str:
        """What was measured, in words."""
        if self.map50 is not None:
            return f"{100 * self.map50:.1f} % mAP"
        if self.agreement is not None:
            return f"{100 * self.agreement:.1f} % agreement"
        return f"output distance {self.distance:.3f}"

    def to_json(self) -> JsonObject:
        """Returns the fields."""
        return asdict(self)


def advice_for(run: Compression) -> list[str]:
    """Returns what to expect, before anything is done."""
    available, found = run.available, list(run.available.warnings)
    if run.only_input_size:
        found.append(ONLY_INPUT_SIZE.format(run.smaller[-1].net.input.w, run.smaller[-1].net.input.h))
    elif available.drawn:
        found.append(WITHOUT_IMAGES)
    elif not available.torch:
        found.append(WITHOUT_TORCH)
    elif not available.detector and available.train is None:
        found.append("the network has no detection head: only its weights say what can go, and nothing is measured")
    elif available.train is None and available.valid is None:
        sizes = "its input size and smaller ones, on average" if run.judged_at else "its input size (1: all the same)"
        found.append(f"without labels what is measured is the agreement with what the original finds at {sizes}")
    distilled = any(stage.name == "distill" for stage in run.stages) or "distill" in run.settings.skip
    if available.train is None and available.learn is not None and not available.learns_enough and not distilled:
        found.append(
            f"{len(available.learn.lines)} images are too few to learn from without labels ({FEWEST_UNLABELLED} are "
            "asked for): no distillation; a setting for it switches it on (--set distill.epochs=40)"
        )
    if available.valid_is_train:
        found.append("mAP is measured on the images that are trained on (--valid F gives others)")
    return found


def figures_of(run: Compression) -> tuple[NetworkFigures, ...]:
    """Returns the figures of each network, in order; those of a control between two input sizes last."""
    best, records = best_of(run, run.candidates), run.records.records
    points = _control_points(run)
    found = []
    for network in run.networks:
        total = totals(network.pair().graph)
        measured, made = _measured(run, network), records.get(network.made_by)
        times = _result_of(run, "time")
        found.append(
            NetworkFigures(
                network=network.name,
                map50=measured.get("map50"),
                agreement=measured.get(AGREEMENT),
                distance=measured.get(DISTANCE),
                control=control_at(points, total.macs) if points and network in run.candidates else None,
                params=total.params,
                macs=total.macs,
                bytes=network.weights.stat().st_size,
                ms=times.get({run.original: "before_ms", best: "after_ms"}.get(network, "")),
                control_ms=times.get("control_ms") if network is best else None,
                seconds=round(made.seconds, 1) if made is not None else None,
                result=network is best,
            )
        )
    control = _result_of(run, CONTROL)
    if control:
        figures = {name: value for name, value in control.items() if name != "points"}
        nothing = dict.fromkeys(("map50", "agreement", "distance", "control", "ms", "control_ms", "seconds"))
        found.append(replace(found[0], **{**nothing, "result": False, **figures}))
    return tuple(found)


def best_of(run: Compression, networks: Sequence[RunNetwork]) -> RunNetwork:
    """Returns the best of several networks: the last one, unless an earlier one is better by more than chance."""
    best = networks[-1]
    for network in reversed(networks):
        if _loss(run, best) - _loss(run, network) > MARGIN:
            best = network
    return best


def _control_points(run: Compression) -> list[tuple[float, float]]:
    """Returns multiply-adds and mAP or agreement of the original at its input sizes, as far as they were measured."""
    known = _result_of(run, CONTROL).get("points")
    if known is not None:
        return [(macs, value) for macs, value in known]
    sizes = [run.original, *(network for network in run.networks if network.resized is not None)]
    found: list[tuple[float, float]] = []
    for network in sizes:
        measured = _measured(run, network)
        value = measured.get("map50", measured.get(AGREEMENT))
        if value is not None:
            found.append((network.pair().graph.macs, float(value)))
    return found


def _loss(run: Compression, network: RunNetwork) -> float:
    """Returns 1 − mAP or agreement, or the distance; infinite for what was not measured: nothing follows from it."""
    measured = _measured(run, network)
    for name in ("map50", AGREEMENT):
        if measured.get(name) is not None:
            return 1 - float(measured[name])
    return float(measured[DISTANCE]) if measured.get(DISTANCE) is not None else math.inf


def _measured(run: Compression, network: RunNetwork) -> JsonMapping:
    return _result_of(run, f"evaluate: {network.name}")


def _result_of(run: Compression, stage: str) -> JsonMapping:
    record = run.records.records.get(stage)
    return record.result if record is not None and record.done else {}


def verdict_on(networks: Sequence[NetworkFigures]) -> list[str]:
    """Returns whether training did harm, the original at a smaller input is better, and the result is slower."""
    return [*_harm(networks), *_beaten(networks), *_slower(networks)]


def _harm(networks: Sequence[NetworkFigures]) -> list[str]:
    number = next(number for number, network in enumerate(networks) if network.result)
    result = networks[number]
    later = [network for network in networks[number + 1 :] if _trained_by(network)]
    if not later:
        return []
    stage = _trained_by(later[-1])
    return [
        f"{later[-1].network} is worse ({later[-1].quality}) than {result.network} ({result.quality}), which is taken "
        f"as the result: more images or longer training (--set {stage}.epochs=…) may help; "
        f"--skip {stage} saves the time"
    ]


def _trained_by(network: NetworkFigures) -> str | None:
    """Returns the stage that trained a slim network; None where none did."""
    return next((stage for name, stage in TRAINED.items() if network.network.startswith(name)), None)


def _beaten(networks: Sequence[NetworkFigures]) -> list[str]:
    control = networks[-1]
    result = next(network for network in networks if network.result)
    stage = next((stage for network in networks if (stage := _trained_by(network))), "distill")
    for name, value, best in (("mAP", control.map50, result.map50), (AGREEMENT, control.agreement, result.agreement)):
        if control.is_control and value is not None and best is not None and best <= value and result != control:
            return [
                f"the {control.network} has {100 * value:.1f} % {name} at {control.macs / 1e9:.3f} G "
                f"multiply-adds, the result {100 * best:.1f} % at {result.macs / 1e9:.3f} G: "
                f"take the smaller input, train for longer (--set {stage}.epochs=…), or ask for less"
            ]
    return []


def _slower(networks: Sequence[NetworkFigures]) -> list[str]:
    before = networks[0].ms
    result = next(network for network in networks if network.result)
    if before is None or result.ms is None or result.ms <= before:
        return []
    found = f"the result is slower on this machine than the original: {result.ms:.1f} ms an image, {before:.1f} before"
    if result.control_ms is None:
        return [found]
    return [f"{found}; the original at a smaller input with as many operations takes {result.control_ms:.1f} ms"]
