"""From a plan back to the surgery that it describes."""

from __future__ import annotations

from dataclasses import replace

from darkprune.errors import PlanError
from darkprune.graph.channels import map_channels, removed_in
from darkprune.graph.graph import Graph, build_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.surgery.apply import Cut
from darkprune.surgery.factors.network import factorised_cfg, parts_of, with_factors
from darkprune.surgery.plan import Plan
from darkprune.surgery.removed_units import kept_layers, reduced, without_units
from darkprune.surgery.replaced_channels import check_similar, with_similar
from darkprune.surgery.surgery import Surgery
from darkprune.surgery.units import check_units


def replay(weights: NetworkWeights, plan: Plan, hashes: tuple[str, str | None]) -> Surgery:
    """Turns a plan into the surgery that it describes.

    Args:
        plan: the plan; what its groups lose is counted anew, in case it was changed by hand.
        hashes: SHA-256 of the pair's cfg and weights; None for weights that need not be those of the plan.

    Raises:
        PlanError: the plan was made for other files (names it), or is not consistent.
    """
    for kind, name, wanted, found in zip(
        ("cfg", "weights"), plan.names, (plan.cfg_sha256, plan.weights_sha256), hashes, strict=True
    ):
        if found is not None and wanted != found:
            path = weights.graph.cfg.source if kind == "cfg" else weights.path
            raise PlanError(
                f"{path}: the plan was made for another {kind} file ({name}, sha256 {wanted[:12]}…; this one has "
                f"{found[:12]}…); take that file, or make a new plan"
            )
    _check(plan)
    base = with_similar(with_factors(reduced(weights, plan.units), plan.factors), plan.similar)
    channels = map_channels(base.graph)
    keep, carriers = plan.classes(channels)
    how, constant = str(plan.settings["compensate"]), str(plan.settings["constant"])
    cut = Cut(channels, keep, carriers, how, constant, plan.measured)
    check_similar(cut, plan.similar)
    groups = [replace(group, removed=removed_in(channels, keep, group.first, group.last)) for group in plan.groups]
    return Surgery(original=weights, plan=replace(plan, groups=tuple(groups)), cut=cut)


def base_graph(graph: Graph, plan: Plan) -> Graph:
    """Returns the network that the channels of a plan are numbered in: without its units, with its factors.

    Raises:
        PlanError: the plan is for another network.
    """
    _check(plan)
    check_units(graph, plan.units)
    if plan.factors:
        return build_graph(factorised_cfg(graph, plan.factors))
    return build_graph(without_units(graph, plan.units)) if plan.units else graph


def layers_before(graph: Graph, plan: Plan) -> tuple[int | None, ...]:
    """Returns for every layer of the slim network the original's number; None for inner parts of a factorised layer."""
    if plan.factors:
        return tuple(part.layer if part.last else None for part in parts_of(graph, plan.factors))
    return kept_layers(graph, plan.units)


def _check(plan: Plan) -> None:
    if plan.units and plan.factors:
        raise PlanError("plan: holds units and factors; cut out the units first, and factorise the result")
