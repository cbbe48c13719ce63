"""What to expect of a cut that nothing repairs, from the weights alone.

Where γ is near 0 a removed channel was a constant already. Where it is not, every layer after it loses a part of what
it reads. The product of what is left over all layers follows what the network still finds: with four networks cuts
that left 30 % and more had an agreement of 0.4 and more with the original, those below 0.5 % hardly any
(docs/RESULTS.md).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from darkprune.errors import PlanError
from darkprune.graph.channels import ChannelMap
from darkprune.graph.graph import Layer
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.layers import INPUT
from darkprune.layers.activations import FUNCTIONS, variance_under_normal
from darkprune.layers.base import Floats
from darkprune.layers.convolution import Convolutional
from darkprune.layers.merge import Shortcut
from darkprune.search.goal import Goal
from darkprune.selection.decide import decide, rank
from darkprune.selection.importance import CRITERIA
from darkprune.selection.reach import within_budget
from darkprune.selection.settings import Selection
from darkprune.selection.summary import describe_sparsity
from darkprune.surgery.replaced_channels import without_replacements
from darkprune.surgery.surgery import Surgery

HOPELESS, LITTLE = 0.005, 0.3  #: of the signal that is left
_ENOUGH_BYTES = 1 << 20  #: of a convolution's filters: their shares differ little from those of all
_TRIAL = 0.3  #: ratio at which γ is looked at where the ratio is not known yet


def with_criterion(weights: NetworkWeights, selection: Selection, goal: Goal, images: bool) -> Selection:
    """Decides what the criterion `auto` means: γ where it is sparse enough for the amount, else sensitivity.

    Args:
        selection: any other criterion stays.
        goal: what to keep; EagleEye's candidates are ranked by weights.
        images: whether there are images to measure sensitivity on; without them it is γ.
    """
    if selection.criterion != "auto":
        return selection
    by_gamma = replace(selection, criterion="bn_gamma")
    if not images or goal.candidates:
        return by_gamma
    trial = replace(by_gamma, similarity=0.0)
    if selection.allocation == "sensitivity":
        trial = replace(trial, allocation="uniform")
    ranking = rank(weights, trial)
    if goal.budget is not None:
        trial = within_budget(ranking, trial, goal.budget)
    elif not (trial.ratio or trial.ratios or trial.preset or trial.units or trial.unit_ratio):
        trial = replace(trial, ratio=_TRIAL)  # a latency is to be met
    sparse = not describe_sparsity(decide(ranking, trial).plan.groups)
    return by_gamma if sparse else replace(selection, criterion="sensitivity")


def expect(surgery: Surgery, force: bool) -> str:
    """Returns what to expect of a network that is cut by its weights and not repaired, in one line.

    Returns:
        The line; empty where nothing speaks against the cut, or images were looked at.

    Raises:
        PlanError: nothing would be left of what the network detects, and not `force`.
    """
    criterion, trained = surgery.plan.settings["criterion"], surgery.original.header.seen > 0
    if criterion not in CRITERIA:
        return ""
    sparsity = describe_sparsity(surgery.plan.groups) if criterion == "bn_gamma" else f"criterion {criterion}"
    if not sparsity:
        return ""
    left = signal_left(surgery)
    if criterion != "bn_gamma" and left >= LITTLE:
        return ""
    what = "detect" if surgery.graph.heads else "recognise"
    outcome = "nothing" if left < HOPELESS else "little" if left < LITTLE else "less"
    share = surgery.graph.macs / surgery.original.graph.macs
    line = (
        f"{surgery.original.path.name} was not trained for pruning ({sparsity}); cut like this it will {what} "
        f"{outcome}: use darkprune compress CFG WEIGHTS --target-macs {share:.2f} --images DIR -o RUN"
    )
    if left < HOPELESS and trained and not force:
        raise PlanError(f"{line}, or --force")
    return line


def signal_left(surgery: Surgery) -> float:
    """Estimates how much of the signal a cut leaves: 1 where only constants go, 0 where nothing gets through.

    Every dense convolution reads channels with a variance each, times the squares of its weights for them. The share
    of that which does not come from removed channels is what is left of it, and the product over the convolutions the
    estimate.
    """
    cut = without_replacements(surgery.cut, surgery.plan.similar)
    channels, weights, gone = cut.channels, surgery.base, cut.gone
    variances: list[Floats] = []
    left = 1.0
    for layer in channels.graph:
        classes = channels.inputs(layer) if layer.sources else np.zeros(0, np.intp)
        removed = np.where(classes < 0, False, gone[classes])
        if isinstance(layer.kind, Convolutional) and layer.is_dense and removed.any():
            powers = _powers(weights, layer)
            if len(powers) == len(classes):  # a grouped convolution reads blocks that lose alike
                powers = powers * variances[layer.sources[0]]
                left *= 1 - float(powers[removed].sum() / max(powers.sum(), 1e-30))
        variances.append(_variances(weights, channels, layer, variances))
    return left


def _powers(weights: TensorSource, layer: Layer) -> Floats:
    """Returns the sum of squares of a convolution's first filters for each input channel of a group.

    Those filters that fill a part of the file are looked at; the next as well where all of them are 0.
    """
    total: Floats = np.zeros(1)
    for _, rows in weights.chunks(layer, "weights", _ENOUGH_BYTES):
        flat = rows.reshape(rows.shape[0], -1)
        squares = np.einsum("oj,oj->j", flat, flat)  # in 64 bits it would take several times as long
        total = squares.reshape(rows.shape[1], -1).sum(axis=1, dtype=np.float64)
        if total.any():
            break
    return total


def _variances(weights: TensorSource, channels: ChannelMap, layer: Layer, before: list[Floats]) -> Floats:
    """Returns the variance of each output channel: of the batch normalisation and activation, or that of the input."""
    kind, classes = layer.kind, channels.of_layer[layer.index]
    if isinstance(kind, Convolutional) and layer.is_normalised and kind.activation in FUNCTIONS:
        scale, shift = (np.array(weights.read(layer, name), np.float64) for name in ("scales", "biases"))
        return variance_under_normal(kind.activation, scale, shift)
    known = np.zeros(channels.count) if isinstance(kind, Shortcut) else np.ones(channels.count)
    for source in layer.sources:
        if source == INPUT:
            continue
        there = channels.of_layer[source]
        values = before[source][there >= 0]
        if isinstance(kind, Shortcut):
            np.add.at(known, there[there >= 0], values)
        else:
            known[there[there >= 0]] = values
    return np.where(classes < 0, 1.0, known[classes]) if len(classes) else np.zeros(0)
