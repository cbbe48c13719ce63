"""Everything about a run that decides its result, read from the cfg and what the user changed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from darkprune.darknet.options import Options
from darkprune.errors import TrainingError, UsageError
from darkprune.graph.graph import Graph
from darkprune.training.data.augment import Augmentation, read_augmentation
from darkprune.training.data.batches import SizeSettings
from darkprune.training.recipe.ema import EmaSettings
from darkprune.training.recipe.optimizer import OptimizerSettings
from darkprune.training.recipe.schedule import Schedule, read_schedule

Precision = Literal["full", "bf16", "fp16"]


@dataclass(frozen=True)
class Changes:
    """What the user wants otherwise than the cfg; None leaves it.

    Attributes:
        steps, epochs: length of the run; what the schedule gives in steps is stretched with it.
        batch, parts: images per step, and into how many parts they are divided.
        rate: learning rate.
        policy: schedule; `cosine` falls over the whole run to `rate_floor` times the rate.
        rate_floor: see `policy`.
        burn_in: steps in which the rate rises.
        momentum, decay: of the optimiser.
        adam: use Adam.
        multi_scale: as `random=` of the head; 0 switches it off.
        mosaic, mixup, flip: augmentation.
        augment: False switches all augmentation off.
        ema: share of the old average.
        frozen_bn: see `Recipe`; None is no.
    """

    steps: int | None = None
    epochs: float | None = None
    batch: int | None = None
    parts: int | None = None
    rate: float | None = None
    policy: str | None = None
    rate_floor: float = 0.05
    burn_in: int | None = None
    momentum: float | None = None
    decay: float | None = None
    adam: bool | None = None
    multi_scale: float | None = None
    mosaic: bool | None = None
    mixup: bool | None = None
    flip: bool | None = None
    augment: bool = True
    ema: float | None = None
    frozen_bn: bool | None = None


@dataclass(frozen=True)
class Recipe:
    """What decides the result of a run, together with network, data and start.

    Attributes:
        batch: images per step, over all processes.
        parts: parts that a step is divided into.
        steps: of the whole run.
        images: of the data set.
        seed: of everything random.
        schedule, optimizer, augmentation, sizes, ema: see there.
        freeze: number of first layers that stay as they are.
        frozen_bn: batch-normalised layers normalise by their running statistics, which stay as they are; γ and β learn.
        precision: of the forward pass.
    """

    batch: int
    parts: int
    steps: int
    images: int
    seed: int
    schedule: Schedule
    optimizer: OptimizerSettings
    augmentation: Augmentation
    sizes: SizeSettings
    ema: EmaSettings
    freeze: int = 0
    frozen_bn: bool = False
    precision: Precision = "full"

    @property
    def epoch_steps(self) -> int:
        """Steps in which every image is seen about once."""
        return max(1, math.ceil(self.images / self.batch))

    def to_plain(self) -> dict[str, Any]:
        """Returns it as plain values, to be compared when a run goes on."""
        return asdict(self)


def read_recipe(
    graph: Graph, images: int, changes: Changes, *, ranks: int = 1, seed: int = 0, freeze: int = 0
) -> Recipe:
    """Puts cfg and changes together.

    Args:
        graph: the network.
        images: of the data set.
        changes: what the user wants otherwise.
        ranks: processes that share each step.
        seed: of everything random.
        freeze: see `Recipe`.

    Raises:
        CfgError, UsageError, TrainingError: values that cannot be trained with.
    """
    net = graph.net_options()
    batch = changes.batch or graph.net.batch
    parts = _parts(batch, changes.parts or graph.net.subdivisions, ranks)
    schedule = read_schedule(net)
    steps = _steps(schedule, changes, images, batch, graph.cfg.source)
    schedule = _schedule(schedule.over(steps), changes)
    optimizer = OptimizerSettings.read(net)
    optimizer = replace(
        optimizer,
        momentum=optimizer.momentum if changes.momentum is None else changes.momentum,
        decay=optimizer.decay if changes.decay is None else changes.decay,
        adam=optimizer.adam if changes.adam is None else changes.adam,
    )
    return Recipe(
        batch,
        parts,
        steps,
        images,
        seed,
        schedule,
        optimizer,
        _augmentation(read_augmentation(graph), changes),
        _sizes(graph, net, changes),
        _ema(net, changes, steps),
        freeze,
        bool(changes.frozen_bn),
    )


def _parts(batch: int, parts: int, ranks: int) -> int:
    """Returns the number of parts: at least as asked for, the same for every process."""
    if batch < 1 or parts < 1:
        raise UsageError("--batch and --subdivisions must be at least 1")
    if parts > batch:
        raise TrainingError(f"subdivisions={parts} is larger than batch={batch}: a part would have no image")
    fitting = [count for count in range(parts, batch + 1) if batch % count == 0 and count % ranks == 0]
    if not fitting:
        raise TrainingError(
            f"batch={batch} cannot be divided into at least {parts} equal parts for {ranks} processes; "
            f"give a --batch that is a multiple of {math.lcm(parts, ranks)}"
        )
    return fitting[0]


def _steps(schedule: Schedule, changes: Changes, images: int, batch: int, source: str) -> int:
    steps = schedule.max_batches
    if changes.steps is not None:
        steps = changes.steps
    elif changes.epochs is not None:
        steps = math.ceil(changes.epochs * math.ceil(images / batch))
    if steps < 1:
        raise TrainingError(f"{source}: max_batches={steps} is no length of a run; give --iterations or --epochs")
    return steps


def _schedule(schedule: Schedule, changes: Changes) -> Schedule:
    if changes.rate is not None:
        schedule = replace(schedule, rate=changes.rate)
    if changes.burn_in is not None:
        schedule = replace(schedule, burn_in=changes.burn_in)
    if changes.policy == "cosine":
        return replace(schedule, policy="sgdr", minimum=schedule.rate * changes.rate_floor, cycle=schedule.max_batches)
    if changes.policy == "constant":
        return replace(schedule, policy="constant")
    return schedule


def _augmentation(what: Augmentation, changes: Changes) -> Augmentation:
    if not changes.augment:
        return Augmentation(jitter=0.0, flip=False, letterbox=what.letterbox, limit=what.limit)
    mosaic = what.mosaic if changes.mosaic is None else changes.mosaic
    if mosaic and what.letterbox:
        raise UsageError("--mosaic does not go together with letter_box=1 of the cfg")
    return replace(
        what,
        mosaic=mosaic,
        mixup=what.mixup if changes.mixup is None else changes.mixup,
        flip=what.flip if changes.flip is None else changes.flip,
    )


def _sizes(graph: Graph, net: Options, changes: Changes) -> SizeSettings:
    width, height = graph.net.input.w, graph.net.input.h
    spread = changes.multi_scale
    if spread is None:
        spread = graph.options(graph.heads[-1]).float("random") if graph.heads and changes.augment else 0.0
    multiple = max(1, int(net.float("resize_step", 32)))
    # darknet takes random=1 for 1.4
    return SizeSettings(width, height, 1.4 if spread == 1 else max(0.0, spread), multiple)


def _ema(net: Options, changes: Changes, steps: int) -> EmaSettings:
    if changes.ema is not None:
        if not 0 <= changes.ema < 1:
            raise UsageError(f"--ema {changes.ema:g} is out of range; it must be at least 0 and below 1, such as 0.999")
        return EmaSettings(changes.ema, ramp=True)
    alpha = net.float("ema_alpha")
    return EmaSettings(alpha, start=steps // 2, apply_at=max(0, steps - 1000))
