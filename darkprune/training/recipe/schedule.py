"""The learning rate over a run (`get_current_rate` in `network.c`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from darkprune.darknet.options import Options

POLICIES = ("constant", "steps", "poly", "step", "exp", "sigmoid", "sgdr", "random")
_PI = 3.14159265  # darknet's


@dataclass(frozen=True)
class Schedule:
    """When to learn how fast.

    Attributes:
        rate: learning rate at its height.
        policy: one of `POLICIES`.
        max_batches: steps of the whole run.
        burn_in, power: the first `burn_in` steps rise with (step/burn_in)^power.
        steps, scales: for `steps`: at which steps the rate is multiplied, and by what.
        step, scale: for `step`: every `step` steps times `scale`; `step` is the middle of `sigmoid`.
        gamma: for `exp` and `sigmoid`.
        minimum, cycle, cycle_mult: for `sgdr`: the rate that a cosine falls to, steps of the first cycle (0: the
            whole run), and how much longer each cycle is than the one before.
    """

    rate: float
    policy: str = "constant"
    max_batches: int = 0
    burn_in: int = 0
    power: float = 4.0
    steps: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    step: int = 1
    scale: float = 1.0
    gamma: float = 1.0
    minimum: float = 1e-5
    cycle: int = 0
    cycle_mult: int = 2

    def at(self, step: int, seed: int = 0) -> float:
        """Returns the rate of a step.

        Args:
            step: 1 for the first, as darknet counts: it has seen a batch before it learns from it.
            seed: for `random`.
        """
        if step < self.burn_in:
            return self.rate * math.pow(step / self.burn_in, self.power)
        if self.policy == "steps":
            passed = sum(1 for bound in self.steps if bound <= step)
            return self.rate * math.prod(self.scales[:passed])
        if self.policy == "sgdr":
            return self._cosine(step)
        if self.policy == "poly":
            return self.rate * math.pow(max(0.0, 1 - step / max(1, self.max_batches)), self.power)
        if self.policy == "step":
            return self.rate * math.pow(self.scale, step // max(1, self.step))
        if self.policy == "exp":
            return self.rate * math.pow(self.gamma, step)
        if self.policy == "sigmoid":
            return self.rate / (1 + math.exp(min(700.0, self.gamma * (step - self.step))))
        if self.policy == "random":
            return self.rate * math.pow(np.random.default_rng([seed, step]).random(), self.power)
        return self.rate

    def _cosine(self, step: int) -> float:
        start, length = 0, self.cycle or max(1, self.max_batches)
        while start + length < step:
            start += length
            length *= max(1, self.cycle_mult)
        fall = 0.5 * (1 + math.cos((step - start) * _PI / length))
        return self.minimum + (self.rate - self.minimum) * fall

    def over(self, batches: int) -> Schedule:
        """Returns the same schedule over another number of steps: what is given in steps is stretched with it."""
        if not self.max_batches or batches == self.max_batches:
            return replace(self, max_batches=batches)
        ratio = batches / self.max_batches
        return replace(
            self,
            max_batches=batches,
            burn_in=_scaled(self.burn_in, min(1.0, ratio)),
            steps=tuple(_scaled(step, ratio) for step in self.steps),
            step=max(1, _scaled(self.step, ratio)),
            cycle=_scaled(self.cycle, ratio),
        )


def read_schedule(options: Options) -> Schedule:
    """Reads the keys of [net] with darknet's defaults (`parse_net_options`); an unknown policy is `constant`.

    Raises:
        CfgError: `policy=steps` without steps and scales.
    """
    policy = options.text("policy", "constant")
    if policy not in POLICIES:
        policy = "constant"
    steps: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    if policy == "steps":
        steps = options.ints("steps", comment_ends=True)
        scales = options.floats("scales", comment_ends=True)
        if not steps or not scales:
            raise options.error("policy=steps needs steps= and scales=", "policy")
        if len(scales) < len(steps):
            raise options.error(f"{len(steps)} steps but {len(scales)} scales; give one for each", "scales")
    batches = options.int("max_batches")
    return Schedule(
        rate=options.float("learning_rate", 0.001),
        policy=policy,
        max_batches=batches,
        burn_in=options.int("burn_in"),
        power=options.float("power", 4.0),
        steps=steps,
        scales=scales,
        step=options.int("step", 1),
        scale=options.float("scale", 1.0),
        gamma=options.float("gamma", 1.0),
        minimum=options.float("learning_rate_min", 1e-5),
        cycle=options.int("sgdr_cycle", batches),
        cycle_mult=options.int("sgdr_mult", 2),
    )


def _scaled(steps: int, ratio: float) -> int:
    return round(steps * ratio)
