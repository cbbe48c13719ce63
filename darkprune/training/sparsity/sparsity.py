"""Sparse training: an L1 penalty that draws the γ of batch normalisation to zero (METHODS §1).

    loss = detection loss + s · Σ|γ|

The term is added to γ's gradient as s·sign(γ), once per step of the optimiser. Gradients here are means over the batch,
of darknet's deltas. The authors of [GCP] add s at every mini-batch: with B images in one and a step every 64/B of them
the weight per step is s·64/B, so that their s=0.00075 at 16 images is 0.003 per step.

Sources: [GCP] Chu et al., arXiv 2306.01526, §4.1, §5.2; [NS] Liu et al., Network Slimming, ICCV 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.graph.channels import ChannelMap, depthwise_layers, map_channels
from darkprune.graph.graph import Graph
from darkprune.graph.groups import PruneGroup, group_of
from darkprune.network import Network, tensor_of
from darkprune.surgery.apply import Cut
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.loop.hooks import Hook
from darkprune.training.settings import SparsitySettings
from darkprune.training.sparsity.gammas import GammaHistory

DEFAULT_S = 0.00075
KEPT_SHARE = 0.01  #: part of s that the channels that matter still get (`dynamic`)
NEGLIGIBLE = 0.01  #: |γ| below this counts as gone in the progress line


@dataclass(frozen=True, eq=False)
class SparseLayer:
    """A layer whose γ is drawn to zero.

    Attributes:
        layer: its index.
        group: position of its group, −1 outside all.
        free: (c,) bool, which channels may be pruned: the others are left alone.
    """

    layer: int
    group: int
    free: Tensor


def sparse_layers(
    graph: Graph, groups: tuple[PruneGroup, ...], coupled: bool, channels: ChannelMap | None = None
) -> tuple[SparseLayer, ...]:
    """Finds the batch-normalised layers whose channels pruning ranks.

    Pinned channels are left alone, and so are depthwise layers (their channels are their feeder's) and
    squeeze-and-excitation branches (they have no rank of their own).

    Args:
        graph: the network.
        groups: its division.
        coupled: whether to take layers that share their channels with others.
        channels: the network's labels, if there are some already.

    Raises:
        TrainingError: there is no such layer.
    """
    channels = channels or map_channels(graph)
    passing = {layer.index for layer in depthwise_layers(channels)} | channels.followers
    joined = {index for members in channels.coupled_sets for index in members}
    found = []
    for layer in graph:
        if layer.index not in channels.producers or layer.index in passing:
            continue
        if not any(blob.name == "scales" for blob in layer.blobs) or (layer.index in joined and not coupled):
            continue
        free = channels.free[channels.of_layer[layer.index]]
        if free.any():
            group = group_of(groups, layer.index)
            position = groups.index(group) if group is not None else -1
            found.append(SparseLayer(layer.index, position, torch.from_numpy(free.copy())))
    if not found:
        raise TrainingError(
            f"{graph.cfg.source}: has no batch-normalised convolution with channels to prune; sparse training needs γ"
        )
    return tuple(found)


class Sparsity(Hook):
    """Adds the penalty and keeps account of it.

    Attributes:
        history: distribution of |γ| per group and epoch.
    """

    name = "sparsity"
    columns = ("sparsity", "gamma_mean", "gamma_small", "gamma_at_ratio")
    spares_batch_norm = True

    def __init__(
        self,
        network: Network,
        groups: tuple[PruneGroup, ...],
        settings: SparsitySettings,
        steps: int,
        folder: RunFolder | None = None,
    ) -> None:
        """Prepares.

        Args:
            network: on the device to train on.
            groups: its division, for the histograms.
            settings: how.
            steps: of the whole run.
            folder: where the histograms go; None for nowhere.

        Raises:
            TrainingError: the network has no γ to work on.
        """
        self.settings = settings
        self.s = DEFAULT_S if settings.s is None else settings.s
        self.groups = groups
        self.switch_step = math.ceil(settings.switch * steps)
        self.folder = folder
        self.history = GammaHistory(tuple(group.name for group in groups))
        self.layers: tuple[SparseLayer, ...] = ()
        self._spared: list[Tensor] | None = None
        self._step = 0
        self.use(network)

    def use(self, network: Network, cut: Cut | None = None) -> None:
        """Goes on with a slim network: what was spared and is still there stays so."""
        if cut is not None and self._spared is not None:
            kept = [torch.from_numpy(cut.kept(cut.channels.of_layer[layer.layer])) for layer in self.layers]
            self._spared = [spared[rows.to(spared.device)] for spared, rows in zip(self._spared, kept, strict=True)]
        self.network = network
        self.layers = sparse_layers(network.graph, self.groups, not self.settings.no_coupled)
        device = tensor_of(network, self.layers[0].layer, "scales").device
        self._free = [layer.free.to(device) for layer in self.layers]
        self._figures: dict[str, float] = {}

    def weights(self) -> list[Tensor]:
        """Returns for every layer what is added per channel: s, 0.01·s or 0; (c,) each."""
        s = self.s
        if self._spared is None:
            return [free * s for free in self._free]
        return [
            free * torch.where(spared, s * KEPT_SHARE, s) for free, spared in zip(self._free, self._spared, strict=True)
        ]

    def before_step(self, step: int) -> None:
        """Adds s·sign(γ) to the gradients; at the switch, chooses the channels to spare."""
        self._step = step
        if self.settings.sparsity == "dynamic" and self._spared is None and step > self.switch_step:
            self._select()
        for layer, weight in zip(self.layers, self.weights(), strict=True):
            gamma = tensor_of(self.network, layer.layer, "scales")
            if gamma.grad is not None:
                gamma.grad.add_(weight * gamma.detach().sign())
        self._figures = {}

    def after_epoch(self, epoch: int) -> None:
        """Records the distribution of |γ|, and chooses anew where asked to."""
        if self.settings.reselect and self._spared is not None:
            self._select()
        self.history.add(epoch, self._by_group())
        self._write_history()

    def figures(self) -> dict[str, float]:
        """Returns s·Σ|γ|, mean |γ|, the share that is negligible, and |γ| at the ratio."""
        if not self._figures:
            sizes = torch.cat([size for _, size in self._sizes()])
            penalty = torch.stack(
                [(w * self._gamma(layer).abs()).sum() for layer, w in zip(self.layers, self.weights(), strict=True)]
            ).sum()
            rank = min(len(sizes), max(1, math.floor(self.settings.target_ratio * len(sizes) + 0.5)))
            at_ratio = sizes.kthvalue(rank).values
            small = (sizes < NEGLIGIBLE).to(sizes.dtype).mean()
            values = torch.stack([penalty, sizes.mean(), small, at_ratio]).tolist()
            self._figures = dict(zip(self.columns, values, strict=True))
        return self._figures

    def status(self) -> str:
        """Says how much is negligible, and how large |γ| still is where the ratio would cut."""
        found = self.figures()
        ratio = self.settings.target_ratio
        return (
            f"|γ|<{NEGLIGIBLE:g}: {100 * found['gamma_small']:.0f} of {100 * ratio:.0f} % wanted, "
            f"at {100 * ratio:.0f} %: {found['gamma_at_ratio']:.3g}"
        )

    def draw(self) -> None:
        """Draws the distributions."""
        if self.folder is not None:
            self.history.draw(self.folder.folder / "gamma.png")

    def state_dict(self) -> dict[str, Any]:
        """Returns the channels that are spared, and the histograms."""
        return {"spared": self._spared, "history": self.history.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        device = self._free[0].device
        spared = state["spared"]
        self._spared = None if spared is None else [each.to(device) for each in spared]
        self.history.load_state_dict(state["history"])

    def _gamma(self, layer: SparseLayer) -> Tensor:
        return tensor_of(self.network, layer.layer, "scales").detach()

    def _sizes(self) -> list[tuple[SparseLayer, Tensor]]:
        """Returns every layer's |γ| of the channels that may be pruned."""
        return [(layer, self._gamma(layer).abs()[free]) for layer, free in zip(self.layers, self._free, strict=True)]

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

    def _by_group(self) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        parts: list[list[Tensor]] = [[] for _ in self.history.groups]
        for layer, size in self._sizes():
            if layer.group >= 0:
                parts[layer.group].append(size)
        return [torch.cat(part).float().cpu().numpy() if part else np.zeros(0, np.float32) for part in parts]

    def _write_history(self) -> None:
        if self.folder is not None:
            self.history.write(self.folder.folder / "gamma.npz")
