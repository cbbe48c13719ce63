"""Fresh weights for training from scratch."""

from __future__ import annotations

import torch

from darkprune.errors import TrainingError
from darkprune.network.modules import LayerModule
from darkprune.network.network import Network


def initialise(network: Network, seed: int) -> None:
    """Draws weights as darknet does: uniform within ±sqrt(2/(k²·c/groups)), γ = 1, β = 0, μ = 0.

    Other than in darknet the running variance starts at 1: darknet's 0 would multiply by 316 in every layer that is
    looked at before it was trained.

    Args:
        network: its tensors are overwritten, on the device where they are.
        seed: the same weights on any device.

    Raises:
        TrainingError: the network is fused.
    """
    if network.fused:
        raise TrainingError("a network whose batch normalisation is folded into its weights cannot start afresh")
    generator = torch.Generator().manual_seed(seed)
    for module in network.layers:
        assert isinstance(module, LayerModule)
        module.reset(generator)
