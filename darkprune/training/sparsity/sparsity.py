"""Sparse training: an L1 penalty that draws the γ of batch normalisation to zero.

    loss = detection loss + s · Σ|γ|

The penalty is a proximal step after that of the optimiser: γ ← sign(γ)·max(|γ| − rate·s, 0). As a part of the gradient
it would have no effect with Adam, which divides it by the size of the loss's gradient; with SGD without momentum both
are the same to first order. A momentum m multiplies a penalty in the gradient by 1/(1 − m): s as published for such a
program is s/(1 − m) here.

Sources: Chu et al., arXiv 2306.01526, §4.1, §5.2 (`dynamic`); Liu et al., *Network Slimming*, ICCV 2017 (`constant`).
The authors of the first add s at every mini-batch: with B images in one and a step every 64/B of them the weight per
step is s·64/B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from darkprune.graph.channels import map_channels
from darkprune.graph.groups import divide
from darkprune.network import Network, tensor_of
from darkprune.selection.decide import decide, rank
from darkprune.selection.settings import Selection
from darkprune.surgery.apply import Cut
from darkprune.training.gradual.slimming import as_weights
from darkprune.training.loop.checkpoint import RunFolder, State
from darkprune.training.loop.hooks import Hook
from darkprune.training.recipe.recipe import Recipe
from darkprune.training.records.curves import save_figure
from darkprune.training.settings import TrainSettings
from darkprune.training.sparsity.gammas import GammaRecord, gamma_figure
from darkprune.training.sparsity.layers import SparseLayer, sparse_layers
from darkprune.training.sparsity.strength import NEGLIGIBLE, SteeredS

STRONGEST = 0.5  #: s at the start with Adam, whose steps are at most one rate long: a larger one shrinks all γ alike
FINAL = 2.0  #: least s with Adam for channels that were not spared: twice a step, so that their γ arrive at 0 and stay
KEPT_SHARE = 0.01  #: part of s that the channels that matter still get (`dynamic`)


class Sparsity(Hook):
    """Applies the penalty and records its effect.

    Attributes:
        layers: whose γ are penalised.
        history: distribution of |γ| per group and epoch.
    """

    name = "sparsity"
    columns = ("sparsity", "gamma_mean", "gamma_small", "gamma_at_ratio", "s")
    spares_batch_norm = True

    def __init__(
        self, network: Network, settings: TrainSettings, recipe: Recipe, folder: RunFolder | None = None
    ) -> None:
        """Finds the γ to penalise, and the first s; histograms are written where there is a folder.

        Raises:
            TrainingError: the network has no γ to penalise.
        """
        self.settings = settings
        self.folder = folder
        self.switch_step = math.ceil(settings.switch * recipe.steps)
        self._groups = divide(network.graph, settings.groups)
        self.history = GammaRecord.empty(tuple(group.name for group in self._groups))
        self._spared: list[Tensor] | None = None
        self.layers: tuple[SparseLayer, ...] = ()
        self._take(network)
        rates = [recipe.schedule.at(step, recipe.seed) for step in range(1, recipe.steps + 1)]
        self._steered = self._start(rates)
        self._least = FINAL if not isinstance(settings.s, float) and recipe.optimizer.adam else 0.0
        if self._least:
            self.gamma_rate = max(1.0, max(steered.s for steered in self._steered) / STRONGEST)
            self._steered = self._start([rate * self.gamma_rate for rate in rates])

    def use(self, network: Network, cut: Cut | None = None) -> None:
        """Continues with a slim network: spared channels that are still there stay spared."""
        if cut is not None and self._spared is not None:
            kept = [torch.from_numpy(cut.kept(cut.channels.of_layer[layer.layer])) for layer in self.layers]
            self._spared = [spared[rows.to(spared.device)] for spared, rows in zip(self._spared, kept, strict=True)]
        self._take(network)

    def _take(self, network: Network) -> None:
        joined = map_channels(network.graph).coupled_sets if self.settings.no_coupled else ()
        self._exclude = (*self.settings.exclude, *range(self.settings.freeze), *chain.from_iterable(joined))
        self.network = network
        self.layers = sparse_layers(network.graph, self._groups, self._exclude)
        device = tensor_of(network, self.layers[0].layer, "scales").device
        self._free = [layer.free.to(device) for layer in self.layers]
        self._figures: dict[str, float] = {}

    def _start(self, rates: Sequence[float]) -> list[SteeredS]:
        return [SteeredS(rates, self.switch_step, level) for level in self._levels()]

    def s_of(self, layer: SparseLayer) -> float:
        """Returns the weight of a layer's |γ| at the next step."""
        return self.settings.s if isinstance(self.settings.s, float) else self._steered[layer.group].s

    def weights(self) -> list[Tensor]:
        """Returns the weight of every channel's |γ|: s, 0.01·s or 0; (c,) for each layer."""
        each = list(zip(map(self.s_of, self.layers), self._free, strict=True))
        if self._spared is None:
            return [free * s for s, free in each]
        return [
            free * torch.where(spared, KEPT_SHARE * s, max(s, self._least))
            for spared, (s, free) in zip(self._spared, each, strict=True)
        ]

    @torch.no_grad()
    def after_step(self, step: int, rate: float) -> None:
        """Shrinks |γ| by rate·s; at the switch, chooses the channels to spare."""
        if self.settings.sparsity == "dynamic" and self._spared is None and step > self.switch_step:
            self._select()
        for layer, weight in zip(self.layers, self.weights(), strict=True):
            gamma = tensor_of(self.network, layer.layer, "scales")
            if gamma.requires_grad:
                gamma.copy_(gamma.sign() * (gamma.abs() - rate * self.gamma_rate * weight).clamp_(min=0))
        self._figures = {}
        for steered, level in zip(self._steered, self._levels(), strict=True):
            steered.update(step, level)

    def after_epoch(self, epoch: int) -> None:
        """Records the distribution of |γ|, and chooses anew where asked to."""
        if self.settings.reselect and self._spared is not None:
            self._select()
        self.history = self.history.with_epoch(
            epoch, [part.float().cpu().numpy() for part in self._by_group(self._sizes())]
        )
        if self.folder is not None:
            self.history.write(self.folder.folder / "gamma.npz")

    def figures(self) -> dict[str, float]:
        """Returns s·Σ|γ|, mean |γ|, the share that is negligible, the largest |γ| at the ratio, and the largest s."""
        if not self._figures:
            sizes = torch.cat(self._sizes())
            penalty = torch.stack(
                [(w * self._gamma(layer).abs()).sum() for layer, w in zip(self.layers, self.weights(), strict=True)]
            ).sum()
            small = (sizes < NEGLIGIBLE).to(sizes.dtype).mean()
            values = [*torch.stack([penalty, sizes.mean(), small]).tolist(), max(self._levels())]
            self._figures = dict(zip(self.columns, [*values, max(map(self.s_of, self.layers))], strict=True))
        return self._figures

    def status(self) -> str:
        """Returns the share that is negligible, and how large |γ| still is where the ratio would cut."""
        found, ratio = self.figures(), self.settings.ratio
        return (
            f"|γ|<{NEGLIGIBLE:g}: {100 * found['gamma_small']:.0f} of {100 * ratio:.0f} %, "
            f"there {found['gamma_at_ratio']:.2g}, s {found['s']:.2g}"
        )

    def draw(self) -> None:
        """Draws the distributions."""
        if self.folder is not None and len(self.history.epochs):
            figure = gamma_figure(self.history)
            if figure is not None:
                save_figure(figure, self.folder.folder / "gamma.png")

    def state_dict(self) -> State:
        """Returns the channels that are spared, the state of s, and the histograms."""
        history = {"epochs": self.history.epochs.tolist(), "counts": torch.from_numpy(self.history.counts)}
        return {"spared": self._spared, "steered": [each.state_dict() for each in self._steered], "history": history}

    def load_state_dict(self, state: State) -> None:
        """Restores them."""
        device = self._free[0].device
        spared = state["spared"]
        self._spared = None if spared is None else [each.to(device) for each in spared]
        for steered, stored in zip(self._steered, state["steered"], strict=True):
            steered.load_state_dict(stored)
        epochs, counts = np.array(state["history"]["epochs"], np.int64), state["history"]["counts"].numpy()
        self.history = replace(self.history, epochs=epochs, counts=counts.astype(np.int64)).check()

    def _gamma(self, layer: SparseLayer) -> Tensor:
        return tensor_of(self.network, layer.layer, "scales").detach()

    def _sizes(self) -> list[Tensor]:
        """Returns every layer's |γ| of the channels that may be pruned."""
        return [self._gamma(layer).abs()[free] for layer, free in zip(self.layers, self._free, strict=True)]

    def _levels(self) -> list[float]:
        """Returns for every group the |γ| up to which the asked-for ratio would remove its channels.

        Once channels are chosen as pruning will choose them, it is the largest of those that are to go.
        """
        if self._spared is not None and self.settings.keep_fraction is None:
            chosen = zip(self.layers, self._free, self._spared, strict=True)
            gone = [self._gamma(layer).abs()[free & ~spared] for layer, free, spared in chosen]
            return [float(sizes.max()) if len(sizes) else 0.0 for sizes in self._by_group(gone)]
        found = []
        for sizes in self._by_group(self._sizes()):
            rank = min(len(sizes), max(1, math.floor(self.settings.ratio * len(sizes) + 0.5)))
            found.append(float(sizes.kthvalue(rank).values) if len(sizes) else 0.0)
        return found

    def _select(self) -> None:
        """Chooses the channels to spare: what `darkprune prune` would keep now, or those with the largest |γ|.

        A given share is chosen over all layers, as published. Without one coupled layers decide together, by vote, so
        that the channels whose γ vanish are those that are removed later.
        """
        if self.settings.keep_fraction is None:
            self._spared = self._kept_by_pruning()
            return
        sizes = torch.cat(self._sizes())
        chosen = torch.zeros_like(sizes, dtype=torch.bool)
        order = sizes.argsort(descending=True, stable=True)
        chosen[order[: math.floor(self.settings.keep_fraction * len(sizes) + 0.5)]] = True
        parts = chosen.split_with_sizes([int(free.sum()) for free in self._free])
        masks = zip(self._free, parts, strict=True)
        self._spared = [torch.zeros_like(free).masked_scatter_(free, part) for free, part in masks]

    def _kept_by_pruning(self) -> list[Tensor]:
        settings = self.settings
        selection = Selection(ratio=settings.ratio, groups=settings.groups, exclude=self._exclude)
        with as_weights(self.network.graph, self.network.state_dict()) as weights:
            cut = decide(rank(weights, selection), selection).cut
        kept = [torch.from_numpy(cut.keep[cut.channels.of_layer[layer.layer]]) for layer in self.layers]
        return [rows.to(free.device) & free for rows, free in zip(kept, self._free, strict=True)]

    def _by_group(self, sizes: Sequence[Tensor]) -> list[Tensor]:
        """Joins values of the layers group by group."""
        parts: list[list[Tensor]] = [[] for _ in self._groups]
        for layer, size in zip(self.layers, sizes, strict=True):
            parts[layer.group].append(size)
        return [torch.cat(part) if part else torch.zeros(0) for part in parts]
