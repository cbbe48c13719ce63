"""A moving average of the weights, which is evaluated and kept instead of the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from darkprune.network import Network


@dataclass(frozen=True)
class EmaSettings:
    """How to average.

    Attributes:
        alpha: share of the old average at each step; 0 for no average.
        start: step from which on; `ema_alpha` in a cfg starts at half of the run, as in darknet.
        apply_at: step at which the average becomes the network's weights (darknet: 1000 before the end); 0 never.
        ramp: let the share rise from 1/11 as (1 + n)/(10 + n), so that an average from the first step on forgets the
            untrained weights.
    """

    alpha: float = 0.0
    start: int = 0
    apply_at: int = 0
    ramp: bool = False


class Ema:
    """The average of a network's parameters and running statistics."""

    def __init__(self, network: Network, settings: EmaSettings) -> None:
        self.network = network
        self.settings = settings
        self.values: dict[str, Tensor] = {}
        self.steps = 0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the weights after a step (1 is the first); at `apply_at` the average becomes the network's weights."""
        settings = self.settings
        if not settings.alpha or step < settings.start or (settings.apply_at and step > settings.apply_at):
            return
        current = self.network.state_dict()
        if not self.values:
            self.values = {name: tensor.clone() for name, tensor in current.items()}
            self.steps = 0
        elif settings.apply_at and step == settings.apply_at:
            for name, tensor in self.values.items():
                current[name].copy_(tensor)
            self.values = {}
            return
        self.steps += 1
        alpha = min(settings.alpha, (1 + self.steps) / (10 + self.steps)) if settings.ramp else settings.alpha
        averages, values = list(self.values.values()), [current[name] for name in self.values]
        torch._foreach_lerp_(averages, values, 1 - alpha)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the average into the network while the block runs; without an average nothing changes."""
        if not self.values:
            yield
            return
        kept = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(self.values)
        try:
            yield
        finally:
            self.network.load_state_dict(kept)

    def state_dict(self) -> dict[str, object]:
        """Returns the average."""
        return {"values": dict(self.values), "steps": self.steps}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restores it."""
        values, steps = state["values"], state["steps"]
        assert isinstance(values, dict)
        assert isinstance(steps, int)
        self.take(values)
        self.steps = steps

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Continues with another average of as many steps."""
        self.values = {name: tensor.to(self.network.device) for name, tensor in values.items()}
