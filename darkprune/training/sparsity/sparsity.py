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
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from darkprune.graph.groups import divide
from darkprune.network import Network, tensor_of
from darkprune.surgery.apply import Cut
from darkprune.training.loop.checkpoint import RunFolder, State
from darkprune.training.loop.hooks import Hook
from darkprune.training.recipe.recipe import Recipe
from darkprune.training.records.curves import save_figure
from darkprune.training.settings import TrainSettings
from darkprune.training.sparsity.gamma_figure import gamma_figure
from darkprune.training.sparsity.gammas import GammaRecord
from darkprune.training.sparsity.layers import SparseLayer, sparse_layers
from darkprune.training.sparsity.strength import NEGLIGIBLE, SteeredS

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
        """Finds the γ to penalise, and the first s.

        Args:
            network: on the device to train on.
            settings: of the run.
            recipe: of the run.
            folder: where the histograms go; None for nowhere.

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
        self._steered = SteeredS(rates, self.switch_step, float(self._level()))

    def use(self, network: Network, cut: Cut | None = None) -> None:
        """Continues with a slim network: spared channels that are still there stay spared."""
        if cut is not None and self._spared is not None:
            kept = [torch.from_numpy(cut.kept(cut.channels.of_layer[layer.layer])) for layer in self.layers]
            self._spared = [spared[rows.to(spared.device)] for spared, rows in zip(self._spared, kept, strict=True)]
        self._take(network)

    def _take(self, network: Network) -> None:
        exclude = (*self.settings.exclude, *range(self.settings.freeze))
        self.network = network
        self.layers = sparse_layers(network.graph, self._groups, coupled=not self.settings.no_coupled, exclude=exclude)
        device = tensor_of(network, self.layers[0].layer, "scales").device
        self._free = [layer.free.to(device) for layer in self.layers]
        self._figures: dict[str, float] = {}

    @property
    def s(self) -> float:
        """Weight of Σ|γ| at the next step."""
        return self.settings.s if isinstance(self.settings.s, float) else self._steered.s

    def weights(self) -> list[Tensor]:
        """Returns the weight of every channel's |γ|: s, 0.01·s or 0; (c,) for each layer."""
        if self._spared is None:
            return [free * self.s for free in self._free]
        return [
            free * torch.where(spared, self.s * KEPT_SHARE, self.s)
            for free, spared in zip(self._free, self._spared, strict=True)
        ]

    @torch.no_grad()
    def after_step(self, step: int, rate: float) -> None:
        """Shrinks |γ| by rate·s; at the switch, chooses the channels to spare."""
        if self.settings.sparsity == "dynamic" and self._spared is None and step > self.switch_step:
            self._select()
        for layer, weight in zip(self.layers, self.weights(), strict=True):
            gamma = tensor_of(self.network, layer.layer, "scales")
            if gamma.requires_grad:
                gamma.copy_(gamma.sign() * (gamma.abs() - rate * weight).clamp_(min=0))
        self._figures = {}
        self._steered.update(step, self.figures()["gamma_at_ratio"])

    def after_epoch(self, epoch: int) -> None:
        """Records the distribution of |γ|, and chooses anew where asked to."""
        if self.settings.reselect and self._spared is not None:
            self._select()
        self.history = self.history.with_epoch(epoch, self._by_group())
        if self.folder is not None:
            self.history.write(self.folder.folder / "gamma.npz")

    def figures(self) -> dict[str, float]:
        """Returns s·Σ|γ|, mean |γ|, the share that is negligible, |γ| at the ratio, and s."""
        if not self._figures:
            sizes = torch.cat([size for _, size in self._sizes()])
            penalty = torch.stack(
                [(w * self._gamma(layer).abs()).sum() for layer, w in zip(self.layers, self.weights(), strict=True)]
            ).sum()
            small = (sizes < NEGLIGIBLE).to(sizes.dtype).mean()
            values = torch.stack([penalty, sizes.mean(), small, self._level()]).tolist()
            self._figures = dict(zip(self.columns, [*values, self.s], strict=True))
        return self._figures

    def status(self) -> str:
        """Returns the share that is negligible, and how large |γ| still is where the ratio would cut."""
        found, ratio = self.figures(), self.settings.target_ratio
        return (
            f"|γ|<{NEGLIGIBLE:g}: {100 * found['gamma_small']:.0f} of {100 * ratio:.0f} % wanted, "
            f"at {100 * ratio:.0f} %: {found['gamma_at_ratio']:.3g}, s {self.s:.2g}"
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
        return {"spared": self._spared, "steered": self._steered.state_dict(), "history": history}

    def load_state_dict(self, state: State) -> None:
        """Restores them."""
        device = self._free[0].device
        spared = state["spared"]
        self._spared = None if spared is None else [each.to(device) for each in spared]
        self._steered.load_state_dict(state["steered"])
        epochs, counts = np.array(state["history"]["epochs"], np.int64), state["history"]["counts"].numpy()
        self.history = replace(self.history, epochs=epochs, counts=counts)

    def _gamma(self, layer: SparseLayer) -> Tensor:
        return tensor_of(self.network, layer.layer, "scales").detach()

    def _sizes(self) -> list[tuple[SparseLayer, Tensor]]:
        """Returns every layer's |γ| of the channels that may be pruned."""
        return [(layer, self._gamma(layer).abs()[free]) for layer, free in zip(self.layers, self._free, strict=True)]

    def _level(self) -> Tensor:
        """Returns the |γ| up to which the asked-for ratio would remove channels: a scalar."""
        sizes = torch.cat([size for _, size in self._sizes()])
        rank = min(len(sizes), max(1, math.floor(self.settings.target_ratio * len(sizes) + 0.5)))
        return sizes.kthvalue(rank).values

    def _select(self) -> None:
        """Chooses the channels with the largest |γ| over all layers; of equal ones the first."""
        sizes = torch.cat([size for _, size in self._sizes()])
        count = math.floor(self.settings.keep_fraction * len(sizes) + 0.5)
        order = sizes.argsort(descending=True, stable=True)[:count]
        chosen = torch.zeros_like(sizes, dtype=torch.bool)
        chosen[order] = True
        self._spared = []
        start = 0
        for free in self._free:
            mask = torch.zeros_like(free)
            count = int(free.sum())
            mask[free] = chosen[start : start + count]
            self._spared.append(mask)
            start += count

    def _by_group(self) -> list[npt.NDArray[np.float32]]:
        parts: list[list[Tensor]] = [[] for _ in self.history.groups]
        for layer, size in self._sizes():
            parts[layer.group].append(size)
        return [torch.cat(part).float().cpu().numpy() if part else np.zeros(0, np.float32) for part in parts]
