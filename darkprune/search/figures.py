"""The result of pruning beside the original, and beside the original at a smaller input with as many operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.data.dataset import Dataset
from darkprune.errors import DataError
from darkprune.evaluation.control import control_at, control_networks
from darkprune.graph.graph import Graph
from darkprune.runners.base import FAST_FIRST, LoadedNetwork, load_with_any
from darkprune.runners.measure import Measure, agreement_with, map_of
from darkprune.surgery.surgery import Surgery

if TYPE_CHECKING:  # without images no torch is needed
    from darkprune.data.samples import Samples
    from darkprune.refit.recover import Recovery
    from darkprune.refit.solved_layers import SolvedLayers

MOST_IMAGES = 32  #: held-out images that agreement is measured on: up to four networks run on them, eight times


@dataclass(frozen=True)
class ComparedNetwork:
    """One network in the comparison.

    Attributes:
        name: `original`, `pruned` or `factorised`, `recovered`, `control`.
        width, height: of the input, in pixels.
        macs: multiply-adds for one image.
        distance: output distance to the original on held-out images; None where it was not measured.
        map50: mAP@0.5 as a fraction; None without labels.
        agreement: with what the original detects on held-out images, at its own size and the control's; None with
            labels, and without images.
        control: mAP@0.5 or agreement of the control at as many operations; None for the control itself.
    """

    name: str
    width: int
    height: int
    macs: int
    distance: float | None = None
    map50: float | None = None
    agreement: float | None = None
    control: float | None = None

    @classmethod
    def of(cls, name: str, graph: Graph, distance: float | None = None) -> ComparedNetwork:
        """Takes size and operations from a graph."""
        return cls(name, graph.net.input.w, graph.net.input.h, graph.macs, distance)

    @property
    def quality(self) -> float | None:
        """mAP@0.5 where there are labels, else the agreement."""
        return self.agreement if self.map50 is None else self.map50

    def to_json(self) -> dict[str, object]:
        """Returns the fields."""
        return dict(vars(self))


def repair_and_compare(
    surgery: Surgery,
    samples: Samples | None,
    how: str,
    dataset: Dataset | None,
    solved: SolvedLayers | None = None,
) -> Surgery:
    """Repairs a result on unlabelled images, where there are some, and compares it: see `recover` and `compare`."""
    recovery: Recovery | None = None
    held_out: Sequence[Path] = ()
    if samples is not None:
        from darkprune.refit.recover import recover

        surgery, recovery = recover(surgery, samples, how, solved)
        held_out = samples.held_out.paths
    return compare(surgery, recovery, dataset, held_out)


def compare(
    surgery: Surgery,
    recovery: Recovery | None,
    dataset: Dataset | None,
    held_out: Sequence[Path] = (),
) -> Surgery:
    """Compares a result with the original and its control, by mAP, or without labels by agreement.

    Agreement is that with the original at its own size and at the control's, see `agreement_with`.

    Args:
        recovery: what was measured on unlabelled images.
        held_out: unlabelled images that nothing was fitted on; used without labels.

    Returns:
        The surgery with the comparison among its findings, and a warning where the control is better.
    """
    original, slim = surgery.original, surgery.graph
    _, *smaller = control_networks(original.graph, [slim.macs])
    measured = _measure(surgery, smaller, dataset, held_out[:MOST_IMAGES])
    first = ComparedNetwork.of("original", original.graph, 0.0 if recovery else None)
    first = measured(first, original.path, original.graph)
    name = made = "factorised" if surgery.plan.factors else "pruned"
    networks = [first]
    if recovery is not None and recovery.how != "none":
        name = "recovered"
        networks.append(ComparedNetwork.of(made, slim, recovery.distance_before))
    with surgery.temporary_weights() as path:
        result = measured(ComparedNetwork.of(name, slim, recovery.distance_after if recovery else None), path, slim)
    controls = [measured(ComparedNetwork.of("control", graph), original.path, graph) for graph in smaller]
    points = [(each.macs, each.quality) for each in (first, *controls) if each.quality is not None]
    if smaller and points:
        result = replace(result, control=control_at(points, slim.macs))
    comparison = [network.to_json() for network in (*networks, result, *controls)]
    return replace(
        surgery,
        findings={"recovery": None, "search": None, **surgery.findings, "comparison": comparison},
        warnings=(*surgery.warnings, *_warnings(result)),
    )


def _measure(
    surgery: Surgery, smaller: Sequence[Graph], dataset: Dataset | None, held_out: Sequence[Path]
) -> Callable[[ComparedNetwork, Path, Graph], ComparedNetwork]:
    """Returns what fills in the mAP or the agreement of a network, given its weights and its graph."""
    original = surgery.original

    def loaded(weights: Path, graph: Graph) -> LoadedNetwork:
        return load_with_any(graph, weights, None, taps=False, order=FAST_FIRST)[1]

    agreement: Measure | None = None
    if dataset is None and held_out:
        with suppress(DataError):  # where the original detects nothing the distance has to do
            others = (loaded(original.path, graph) for graph in smaller)
            first = loaded(original.path, original.graph)
            agreement = agreement_with(first, held_out, smaller=others)

    def measured(network: ComparedNetwork, weights: Path, graph: Graph) -> ComparedNetwork:
        if dataset is not None:
            value = map_of(dataset, task=f"evaluating the {network.name} network")(loaded(weights, graph))
            return replace(network, map50=value)
        if agreement is not None:
            return replace(network, agreement=agreement(loaded(weights, graph)))
        return network

    return measured


def _warnings(result: ComparedNetwork) -> list[str]:
    """Returns a warning where the control is better."""
    if result.control is None or result.quality is None or result.quality > result.control:
        return []
    what = "mAP" if result.map50 is not None else "agreement"
    remedy = (
        "take the smaller input" if result.name == "recovered" else "refit it (--recover lsq), take the smaller input"
    )
    return [
        f"the unpruned network at a smaller input has {100 * result.control:.2f} % {what} at as many operations "
        f"({result.macs / 1e9:.3f} G multiply-adds), this result {100 * result.quality:.2f} %: "
        f"{remedy}, or train on"
    ]
