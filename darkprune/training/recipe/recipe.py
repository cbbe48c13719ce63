"""Everything that decides the result of a run, read from the cfg and the settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from darkprune.darknet.options import Options
from darkprune.errors import TrainingError, UsageError
from darkprune.graph.graph import Graph
from darkprune.training.data.augment import Augmentation, read_augmentation
from darkprune.training.data.batches import BatchPlan, SizeSettings
from darkprune.training.recipe.ema import EmaSettings
from darkprune.training.recipe.optimizer import OptimizerSettings
from darkprune.training.recipe.schedule import Schedule, read_schedule
from darkprune.training.settings import Precision, RunSettings, TrainingKeys, given

FEWEST_IMAGES = 16  #: that batch normalisation should see at a time, where the batch has as many
USUAL_IMAGES = 32  #: that it sees where memory allows: the batches of Chu et al. 2023 are 16 and 32
RATE_FLOOR = 0.05  #: where `--policy cosine` ends, as a share of the learning rate


@dataclass(frozen=True, kw_only=True)
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
    def part(self) -> int:
        """Images at a time: what batch normalisation sees."""
        return self.batch // self.parts

    @property
    def batch_in_words(self) -> str:
        """What is to be known about the batch: how many images batch normalisation sees at a time."""
        if self.frozen_bn:
            return f"batch {self.batch}; batch normalisation keeps its statistics"
        return f"batch {self.batch}; batch normalisation sees {self.part} images at a time"

    @property
    def epoch_steps(self) -> int:
        """Steps in which every image is seen about once."""
        return max(1, math.ceil(self.images / self.batch))

    def batch_plan(self, rank: int, ranks: int) -> BatchPlan:
        """Returns the share of the batches that process `rank` of `ranks` makes."""
        return BatchPlan(self.batch, self.parts, self.steps, self.seed, self.sizes, rank, ranks)


def read_recipe(graph: Graph, images: int, settings: RunSettings, *, ranks: int = 1, cuda: bool = False) -> Recipe:
    """Combines a cfg with what replaces its keys; `ranks` processes share each step.

    Raises:
        CfgError, UsageError, TrainingError: values that cannot be trained with.
    """
    net = graph.net_options()
    batch = settings.batch or graph.net.batch
    schedule = read_schedule(net)
    steps = _steps(schedule, settings, images, batch, graph.cfg.source)
    precision = settings.precision or ("fp16" if cuda else "full")
    if precision == "fp16" and not cuda:
        raise UsageError("--precision fp16 needs a GPU; the CPU can do bf16")
    return Recipe(
        batch=batch,
        parts=_parts(batch, settings.subdivisions, graph.net.subdivisions, ranks),
        steps=steps,
        images=images,
        seed=settings.seed,
        schedule=_schedule(schedule.over(steps), settings),
        optimizer=replace(OptimizerSettings.read(net), **given(settings, "momentum", "decay", "adam")),
        augmentation=_augmentation(read_augmentation(graph), settings),
        sizes=_sizes(graph, net, settings),
        ema=_ema(net, settings, steps),
        freeze=settings.freeze,
        frozen_bn=bool(settings.frozen_bn),
        precision=precision,
    )


def _parts(batch: int, asked: int | None, in_cfg: int, ranks: int) -> int:
    """Returns into how many parts a step is divided, the same number for every process.

    What the user asks for, or the next number that is possible. Otherwise as many as the cfg says, but so few that
    batch normalisation sees 32 images at a time, or the whole batch: a cfg's `subdivisions` suit its own batch, and
    with a smaller one they would leave one or two images.
    """
    possible = [count for count in range(1, batch + 1) if batch % count == 0 and count % ranks == 0]
    if asked is None:
        large = [count for count in possible if batch // count >= min(batch, USUAL_IMAGES)]
        chosen = [count for count in large if count <= max(in_cfg, ranks)][-1:] or possible[:1]
    elif asked > batch:
        raise TrainingError(f"subdivisions={asked} is larger than batch={batch}: a part would have no image")
    else:
        chosen = [count for count in possible if count >= asked]
    if not chosen:
        raise TrainingError(
            f"batch={batch} cannot be divided into at least {asked or 1} equal parts for {ranks} processes; "
            f"give a --batch that is a multiple of {math.lcm(asked or 1, ranks)}"
        )
    return chosen[0]


def _steps(schedule: Schedule, keys: TrainingKeys, images: int, batch: int, source: str) -> int:
    steps = schedule.max_batches
    if keys.iterations is not None:
        steps = keys.iterations
    elif keys.epochs is not None:
        steps = math.ceil(keys.epochs * math.ceil(images / batch))
    if steps < 1:
        raise TrainingError(f"{source}: max_batches={steps} is no length of a run; give --iterations or --epochs")
    return steps


def _schedule(schedule: Schedule, keys: TrainingKeys) -> Schedule:
    schedule = replace(schedule, **given(keys, "burn_in"), rate=schedule.rate if keys.lr is None else keys.lr)
    if keys.policy == "cosine":
        return replace(schedule, policy="sgdr", minimum=schedule.rate * RATE_FLOOR, cycle=schedule.max_batches)
    if keys.policy == "constant":
        return replace(schedule, policy="constant")
    return schedule


def _augmentation(what: Augmentation, keys: TrainingKeys) -> Augmentation:
    if keys.no_augment:
        return Augmentation(jitter=0.0, flip=False, letterbox=what.letterbox, limit=what.limit)
    what = replace(what, **given(keys, "mosaic", "mixup", "flip"))
    if what.mosaic and what.letterbox:
        raise UsageError("--mosaic does not go together with letter_box=1 of the cfg")
    return what


def _sizes(graph: Graph, net: Options, keys: TrainingKeys) -> SizeSettings:
    width, height = graph.net.input.w, graph.net.input.h
    spread = keys.multi_scale
    if spread is None:
        spread = graph.options(graph.heads[-1]).float("random") if graph.heads and not keys.no_augment else 0.0
    multiple = max(1, int(net.float("resize_step", 32)))
    # darknet takes random=1 for 1.4
    return SizeSettings(width, height, 1.4 if spread == 1 else max(0.0, spread), multiple)


def _ema(net: Options, keys: TrainingKeys, steps: int) -> EmaSettings:
    if keys.ema is not None:
        return EmaSettings(keys.ema, ramp=True)
    alpha = net.float("ema_alpha")
    return EmaSettings(alpha, start=steps // 2, apply_at=max(0, steps - 1000))
