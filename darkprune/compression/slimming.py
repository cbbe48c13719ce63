"""Adds the stages of a run that make the network smaller: pruning, smaller inputs, factorisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from darkprune.api.factorize import FactorizeSettings
from darkprune.api.prune import PruneSettings
from darkprune.compression import stages
from darkprune.compression.available import FOLDER
from darkprune.compression.estimate import cost_of_pruning, cost_of_refit
from darkprune.compression.network import RunNetwork
from darkprune.compression.run import Compression
from darkprune.compression.settings import MOST_SIZES
from darkprune.errors import UsageError
from darkprune.graph.graph import Graph
from darkprune.graph.stats import totals
from darkprune.graph.weights import TensorSource
from darkprune.layers.convolution import Convolutional
from darkprune.runs.stages import FileSource
from darkprune.selection.budget import Budget
from darkprune.selection.reach import units_above
from darkprune.selection.settings import Recovery
from darkprune.surgery.factors.network import factorisable
from darkprune.surgery.removed_units import reduced
from darkprune.surgery.units import Unit, find_units

_SPARE = 0.1  #: of a network that stays beside what cannot be factorised


def add_pruning(run: Compression, before: RunNetwork, way: str = "") -> RunNetwork:
    """Adds pruning at the network's own size and, where images allow it, the replay of its plan with a refit."""
    images, settings = run.available.images, run.prune_settings
    if way and settings.criterion == "auto":
        settings = replace(settings, criterion="surgeon")
    read = [images] if images is not None and settings.images is not None else []
    pruned = run.new_network(before, "pruned", "prune", way=way)
    run.add(stages.cutting(before, pruned, read, settings), cost_of_pruning(settings, 1))
    if not run.includes("recover", images is not None and run.available.detector):
        return pruned
    if images is None:
        raise UsageError("[recover] looks at images: give some with --images DIR or --data F")
    plan = FileSource("plan", pruned.cfg.with_name("plan.json"))
    paths = {"plan": str(plan.path), "images": str(images.path)}
    settings = run.settings.of_stage("recover", PruneSettings, {"recover": "lsq"}, **paths)
    recovered = run.new_network(before, "recovered", "recover", way=way)
    run.add(stages.cutting(before, recovered, [plan, images], settings), cost_of_pruning(settings, 1))
    return recovered


def add_smaller_inputs(run: Compression) -> None:
    """Adds the original at smaller inputs; where images allow it, those above the budget are pruned down to it."""
    images, budget = run.available.images, run.budget
    if not run.smaller or budget is None:
        return
    resized = [RunNetwork.at_size(run.original, graph, run.folder / FOLDER) for graph in run.smaller]
    run.candidates.insert(0, resized[-1])
    if not run.by_sizes or run.only_input_size or images is None:
        run.networks.insert(1, resized[-1])
        return
    run.networks[1:1] = resized
    for network in _spread(resized[:-1]):
        assert network.resized is not None
        share = budget.target / network.resized.macs
        settings = replace(run.prune_settings, target_macs=share, recover=_recovery(run))
        made = run.new_network(network, f"pruned at {network.size}", f"prune: {network.size}")
        cost = cost_of_pruning(settings, run.share(network))
        run.add(stages.cutting(network, made, [images], settings), cost)


def add_units(run: Compression) -> None:
    """Adds the removal of whole residual units, without labels: half of those that the budget allows, and all of them.

    Which ones is known later, so the budget has to allow the largest. Channels make up for the rest of it.
    """
    images, budget = run.available.images, run.budget
    cut = run.prune_settings
    own = cut.units or cut.unit_ratio or cut.preset is not None or cut.candidates is not None
    if run.available.train is not None or images is None or budget is None or own or not run.judges:
        return
    if run.only_input_size or not find_units(run.graph):
        return

    def largest_first(weights: TensorSource, units: Sequence[Unit]) -> tuple[Unit, ...]:
        return tuple(replace(unit, score=budget.of(totals(reduced(weights, [unit]).graph))) for unit in units)

    with run.original.pair().open() as weights:
        most = units_above(weights, budget, largest_first)
    score = "distance" if run.available.torch else cut.unit_score
    for number in sorted({(most + 1) // 2, most} - {0}):
        settings = replace(cut, units=number, unit_score=score, recover=_recovery(run))
        name = f"without {number} unit{'s' if number > 1 else ''}"
        made = run.new_network(run.original, name, f"prune: {name}")
        run.candidates.remove(made)
        run.candidates.insert(0, made)  # where it is no better than channels alone, that has kept its layers
        run.add(stages.cutting(run.original, made, [images], settings), cost_of_pruning(settings, 1))


def add_factorisation(run: Compression) -> None:
    """Adds factorisation down to the budget, at the network's own size and at smaller ones, without labels.

    Only where most operations are in convolutions larger than 1x1, which products save a lot of.
    """
    images, budget = run.available.images, run.budget
    if run.available.train is not None or images is None or not run.available.detector or budget is None:
        return
    if run.only_input_size or not run.judges or not run.includes("factorize", run.available.torch):
        return
    resized = [network for network in run.networks if network.resized is not None]
    for network in [run.original, *_spread(resized[:-1])]:
        graph = network.resized or run.graph
        share = budget.target / budget.of(totals(graph))
        if share >= 1 or share < 1 - _product_share(graph, budget) + _SPARE:
            continue
        cut = run.prune_settings
        defaults: dict[str, object] = {"round_to": cut.multiple} if cut.multiple > 1 else {}
        defaults |= {"exclude": list(cut.exclude)} if cut.exclude else {}
        given: dict[str, object] = {f"target_{budget.kind}": share, "images": str(images.path)}
        given["recover"] = "lsq" if _recovery(run) == "lsq" else "none"
        settings = run.settings.of_stage("factorize", FactorizeSettings, defaults, **given)
        size = f" at {network.size}" if network.resized is not None else ""
        stage = f"factorize: {network.size}" if size else "factorize"
        made = run.new_network(network, f"factorised{size}", stage)
        run.factorised.append(made)
        run.candidates.remove(made)
        run.candidates.insert(0, made)  # where it is no better than a pruned network, that has fewer layers
        run.add(stages.cutting(network, made, [images], settings), cost_of_refit(run.share(network)))


def _recovery(run: Compression) -> Recovery:
    """Returns how networks are repaired that are pruned or factorised in one stage."""
    if not run.includes("recover", True) or run.available.images is None:
        return "none"
    given = {"plan": "plan.json", "images": str(run.available.images.path)}
    return run.settings.of_stage("recover", PruneSettings, {"recover": "lsq"}, **given).recover


def _product_share(graph: Graph, budget: Budget) -> float:
    """Returns the share of a network's operations or parameters in convolutions that products save a lot of."""
    large = [
        layer
        for layer in graph
        if isinstance(layer.kind, Convolutional) and layer.kind.geometry.size > 1 and factorisable(graph, layer)
    ]
    if budget.kind == "macs":
        return sum(layer.macs for layer in large) / graph.macs
    return sum(blob.count for layer in large for blob in layer.stored) / totals(graph).params


def _spread(networks: Sequence[RunNetwork]) -> list[RunNetwork]:
    """Returns at most `MOST_SIZES` of the networks, evenly chosen, the first and the last among them."""
    if len(networks) <= MOST_SIZES:
        return list(networks)
    step = (len(networks) - 1) / (MOST_SIZES - 1)
    return [networks[round(number * step)] for number in range(MOST_SIZES)]
