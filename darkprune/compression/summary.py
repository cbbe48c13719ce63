"""The figures of a run: one row per network, and what the user should know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from darkprune.compression.defaults import FEWEST_UNLABELLED
from darkprune.compression.network import RunNetwork
from darkprune.graph.stats import totals

if TYPE_CHECKING:
    from darkprune.compression.plan import Compression

#: measured with yolo-fastest-1.1-xl on COCO; see docs/RESULTS.md
WITHOUT_IMAGES = (
    "there are no images: drawn scenes stand in for them, nothing is trained, and nothing is measured. On one detector "
    "of COCO that cost 4 of 39 points of mAP at 10 % fewer operations, 10 at 20 %; with --images DIR, some hundred "
    "unlabelled ones, half of that, and the loss can be seen"
)

MARGIN = 0.005  #: of mAP or output distance by which an earlier network must be better: less may be chance

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
        distance: of its outputs from the original's; None where it was not measured.
        params: stored floats.
        macs: multiply-adds for one image.
        bytes: size of the weights file.
        seconds: time that its stage took; None for the original and the control.
        result: whether it is the result of the run.
    """

    network: str
    map50: float | None = None
    distance: float | None = None
    params: int
    macs: int
    bytes: int
    seconds: float | None = None
    result: bool = False

    @property
    def is_control(self) -> bool:
        """Whether it is the unpruned network at a smaller input."""
        return self.network.startswith("original at")

    @property
    def quality(self) -> str:
        """What was measured, in words."""
        return f"{100 * self.map50:.1f} % mAP" if self.map50 is not None else f"output distance {self.distance:.3f}"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)


def advice_for(run: Compression) -> list[str]:
    """Returns what to expect, before anything is done."""
    available, found = run.available, []
    if available.drawn:
        found.append(WITHOUT_IMAGES)
    elif not available.torch:
        found.append(WITHOUT_TORCH)
    elif not available.detector and available.train is None:
        found.append("the network has no detection head: only its weights say what can go, and nothing is measured")
    elif available.train is None and available.valid is None:
        found.append("without labels what is measured is the distance of the outputs (0: the same, 1: nothing said)")
    distilled = any(stage.name == "distill" for stage in run.stages) or "distill" in run.settings.skip
    if available.train is None and available.learn is not None and not available.learns_enough and not distilled:
        found.append(
            f"{available.learn_count} images are too few to learn from without labels ({FEWEST_UNLABELLED} are asked "
            "for): no distillation; a setting for it switches it on (--set distill.epochs=40)"
        )
    if available.valid_is_train:
        found.append("mAP is measured on the images that are trained on (--valid F gives others)")
    return found


def figures_of(run: Compression) -> tuple[NetworkFigures, ...]:
    """Returns the figures of each network, in order; those of the control last."""
    found = []
    best, records = best_of(run), run.records.records
    for network in run.networks:
        total = totals(network.pair().graph)
        measured = _measured(run, network)
        made = records.get(network.made_by)
        itself = network is run.original and run.available.valid is None and run.available.held_out is not None
        found.append(
            NetworkFigures(
                network=network.name,
                map50=measured.get("map50"),
                distance=0.0 if itself else measured.get("distance"),
                params=total.params,
                macs=total.macs,
                bytes=network.weights.stat().st_size,
                seconds=round(made.seconds, 1) if made is not None else None,
                result=network is best,
            )
        )
    control = records.get("evaluate: control")
    if control is not None and control.done and control.result.get("map50") is not None:
        found.append(replace(found[0], **control.result, distance=None, seconds=None, result=False))
    return tuple(found)


def best_of(run: Compression) -> RunNetwork:
    """Returns the network that is the result: the last one, unless an earlier one that is as slim is better."""
    best = run.current
    for network in reversed(run.candidates()):
        if _loss(run, best) - _loss(run, network) > MARGIN:
            best = network
    return best


def _loss(run: Compression, network: RunNetwork) -> float:
    """Returns 1 − mAP or the output distance; infinite for what was not measured, so that nothing follows from it."""
    measured = _measured(run, network)
    if measured.get("map50") is not None:
        return 1 - float(measured["map50"])
    return float(measured["distance"]) if measured.get("distance") is not None else math.inf


def _measured(run: Compression, network: RunNetwork) -> Mapping[str, Any]:
    record = run.records.records.get(f"evaluate: {network.name}")
    return record.result if record is not None and record.done else {}


def verdict_on(networks: Sequence[NetworkFigures]) -> list[str]:
    """Returns which stages did harm, and whether the unpruned network at a smaller input is better than the result."""
    return [*_harm(networks), *_beaten(networks)]


def _harm(networks: Sequence[NetworkFigures]) -> list[str]:
    number = next(number for number, network in enumerate(networks) if network.result)
    later = [network for network in networks[number + 1 :] if not network.is_control]
    if not later:
        return []
    return [
        f"{later[-1].network} is worse ({later[-1].quality}) than {networks[number].network} "
        f"({networks[number].quality}), which is taken as the result: more images or longer training "
        f"(--set distill.epochs=…) may help; --skip distill saves the time"
    ]


def _beaten(networks: Sequence[NetworkFigures]) -> list[str]:
    control = networks[-1]
    result = next(network for network in networks if network.result)
    if not control.is_control or control.map50 is None or result.map50 is None or result.map50 > control.map50:
        return []
    return [
        f"the {control.network} has {100 * control.map50:.1f} % mAP at {control.macs / 1e9:.3f} G "
        f"multiply-adds, the result {100 * result.map50:.1f} % at {result.macs / 1e9:.3f} G: "
        "take the smaller input, train for longer (--set distill.epochs=…), or ask for less"
    ]
