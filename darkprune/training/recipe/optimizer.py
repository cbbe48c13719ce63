"""Optimisers as darknet applies them (`update_convolutional_layer_gpu`, `adam_update_gpu`).

darknet sums its deltas over the batch and divides the learning rate by it; here the gradients are means over the batch.
Both are the same step: v ← m·v + g + decay·w, w ← w − rate·v, which is torch's SGD. Weights decay, biases and γ do not.
Its Adam works on the sums, so that the ε added to their root is divided by the batch here; there everything decays,
except γ and β while sparse training is on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darkprune.darknet.options import Options
from darkprune.graph.graph import Layer
from darkprune.network import Network
from darkprune.training.loop.checkpoint import State

#: kinds whose `weights` decay; those of [shortcut] do not (GPU build)
_DECAYING = ("convolutional", "connected", "local", "implicit")


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser's keys of [net].

    Attributes:
        momentum, decay: of SGD; `decay` also of Adam.
        adam: use Adam.
        beta1, beta2, epsilon: of Adam.
    """

    momentum: float = 0.9
    decay: float = 0.0001
    adam: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6

    @classmethod
    def read(cls, options: Options) -> OptimizerSettings:
        """Reads the keys of [net] with darknet's defaults."""
        return cls(
            momentum=options.float("momentum", 0.9),
            decay=options.float("decay", 0.0001),
            adam=options.flag("adam"),
            beta1=options.float("B1", 0.9),
            beta2=options.float("B2", 0.999),
            epsilon=options.float("eps", 1e-6),
        )


@dataclass(frozen=True, eq=False)
class Trained:
    """A parameter of a network.

    Attributes:
        name: its name in the network's state.
        layer: the layer that it belongs to.
        blob: darknet's name of it (`weights`, `scales`, …).
        tensor: the parameter.
    """

    name: str
    layer: Layer
    blob: str
    tensor: nn.Parameter

    @property
    def is_batch_norm(self) -> bool:
        """Whether it is γ or β of a batch normalisation."""
        return self.blob == "scales" or (
            self.blob == "biases" and any(blob.name == "rolling_mean" for blob in self.layer.blobs)
        )


def trained_parameters(network: Network) -> tuple[Trained, ...]:
    """Lists a network's parameters in the order of its layers."""
    return tuple(
        Trained(f"layers.{layer.index}.{name}", layer, name, tensor)
        for layer, module in zip(network.graph, network.layers, strict=True)
        for name, tensor in module.named_parameters(recurse=False)
    )


class Optimizer:
    """SGD or Adam over a network's parameters, with each layer's own factor on the rate (`learning_rate=`).

    Attributes:
        inner: torch's optimiser.
        parameters: what it trains, by name.
    """

    def __init__(
        self,
        network: Network,
        settings: OptimizerSettings,
        batch: int,
        *,
        spare_batch_norm: bool,
        gamma_rate: float = 1.0,
    ) -> None:
        """Sorts the parameters into groups of one rate and one decay.

        Args:
            network: its parameters are trained, as far as they want gradients at the time of a step.
            spare_batch_norm: no decay for γ and β whatever the optimiser (sparse training).
            gamma_rate: factor on the rate of γ.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        self._clips: list[tuple[Tensor, float]] = []
        trained = trained_parameters(network)
        self.parameters = {parameter.name: parameter.tensor for parameter in trained}
        for parameter in trained:
            options = network.graph.options(parameter.layer)
            factor = options.float("learning_rate", 1.0) * (gamma_rate if parameter.blob == "scales" else 1.0)
            groups.setdefault((factor, _decay(parameter, settings, spare_batch_norm)), []).append(parameter.tensor)
            clip = options.float("clip")
            if clip and parameter.blob == "weights" and parameter.layer.name in _DECAYING:
                self._clips.append((parameter.tensor, clip))
        chosen = [
            {"params": tensors, "weight_decay": decay, "factor": factor} for (factor, decay), tensors in groups.items()
        ]
        self.inner: torch.optim.Optimizer
        if settings.adam:
            betas = (settings.beta1, settings.beta2)
            self.inner = torch.optim.Adam(chosen, lr=0.0, betas=betas, eps=settings.epsilon / batch)
        else:
            self.inner = torch.optim.SGD(chosen, lr=0.0, momentum=settings.momentum)

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the next step."""
        for group in self.inner.param_groups:
            group["lr"] = rate * group["factor"]

    def step(self, scaler: torch.amp.GradScaler | None = None) -> None:
        """Updates the parameters that have gradients, and applies `clip`."""
        if scaler is None:
            self.inner.step()
        else:
            scaler.step(self.inner)
        with torch.no_grad():
            for tensor, limit in self._clips:
                tensor.clamp_(-limit, limit)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        self.inner.zero_grad(set_to_none=True)

    def take_over(self, before: Optimizer, cut: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]) -> None:
        """Takes over moments and counters from before some channels went.

        Args:
            cut: takes the channels out of one value per parameter, by name.
        """
        moments: dict[str, dict[str, Tensor]] = {}
        for name, wide in before.parameters.items():
            for kind, value in before.inner.state.get(wide, {}).items():
                if isinstance(value, Tensor) and value.dim():
                    moments.setdefault(kind, {})[name] = value
                else:  # a number of steps
                    self.inner.state[self.parameters[name]][kind] = value
        for kind, values in moments.items():
            for name, value in cut(values).items():
                slim = self.parameters[name]
                self.inner.state[slim][kind] = value.to(slim.device)

    def state_dict(self) -> State:
        """Returns moments and counters: tensors and plain values."""
        return self.inner.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Restores them."""
        self.inner.load_state_dict(state)


def gradients(network: Network) -> Iterable[Tensor]:
    """Yields the gradients of a network's parameters that have one, always in the same order."""
    for parameter in network.parameters():
        if parameter.grad is not None:
            yield parameter.grad


def _decay(parameter: Trained, settings: OptimizerSettings, spare_batch_norm: bool) -> float:
    if parameter.is_batch_norm and spare_batch_norm:
        return 0.0
    if settings.adam:
        return settings.decay
    decays = parameter.blob.endswith("weights") and parameter.layer.name in _DECAYING
    return settings.decay if decays else 0.0
