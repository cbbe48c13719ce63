"""From a plan to its cut: what a plan says, checked against the files that it was made for."""

from __future__ import annotations

from dataclasses import replace

from darkprune.errors import PlanError
from darkprune.graph.channels import map_channels, removed_in
from darkprune.graph.weights import NetworkWeights
from darkprune.surgery.apply import Cut
from darkprune.surgery.plan import PrunePlan
from darkprune.surgery.removed_units import reduced
from darkprune.surgery.replaced_channels import check_similar, with_similar


def prepare(weights: NetworkWeights, plan: PrunePlan) -> NetworkWeights:
    """Returns the network that a plan's cut applies to: without the plan's units, similar channels replaced.

    Raises:
        PlanError: the plan names units that are none, or replacements that cannot be.
    """
    return with_similar(reduced(weights, plan.units), plan.similar)


def replay(weights: NetworkWeights, plan: PrunePlan, hashes: tuple[str, str]) -> Cut:
    """Turns a plan back into a cut of what `prepare` returns.

    Raises:
        PlanError: the plan was made for other files (says which), or is not consistent.
    """
    for kind, name, wanted, found in zip(
        ("cfg", "weights"), plan.names, (plan.cfg_sha256, plan.weights_sha256), hashes, strict=True
    ):
        if wanted != found:
            path = weights.graph.cfg.source if kind == "cfg" else weights.file.path
            raise PlanError(
                f"{path}: the plan was made for another {kind} file ({name}, sha256 {wanted[:12]}…; this one has "
                f"{found[:12]}…); take that file, or make a new plan"
            )
    channels = map_channels(prepare(weights, plan).graph)
    keep, carriers = plan.classes(channels)
    how, constant = str(plan.settings["compensate"]), str(plan.settings["constant"])
    cut = Cut(channels, keep, carriers, how, constant, plan.measured or None)
    check_similar(cut, plan.similar)
    return cut


def recounted(plan: PrunePlan, cut: Cut) -> PrunePlan:
    """Returns the plan with what its groups lose counted anew, in case it was changed by hand."""
    groups = [
        replace(group, removed=removed_in(cut.channels, cut.keep, group.first, group.last)) for group in plan.groups
    ]
    return replace(plan, groups=tuple(groups))
