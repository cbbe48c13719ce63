"""Settings of `train` and `distill`. What decides a run's result follows from them and the cfg, see `Recipe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from darkprune.errors import UsageError
from darkprune.graph.groups import PRESETS as GROUP_PRESETS
from darkprune.selection.allocation import ALLOCATIONS, Allocation
from darkprune.selection.importance import CRITERIA, Criterion
from darkprune.selection.settings import Selection
from darkprune.selection.voting import Merge
from darkprune.settings import PathLike, Settings, declared, setting

Precision = Literal["full", "bf16", "fp16"]
DistillPreset = Literal["paper", "paper-literal", "chu2022", "objectness", "features"]
_DATA, _KEYS, _RUN = "data", "instead of the cfg's keys", "the run"
_SPARSE, _PRUNING, _COMPARED = "sparse training", "pruning inside the run", "what is compared"
#: allocations that a single ratio decides
_BY_ONE_RATIO = tuple(name for name in ALLOCATIONS if name != "explicit")


@dataclass(frozen=True, kw_only=True)
class TrainingKeys(Settings):
    """What replaces the training keys of a cfg; None keeps the cfg's value."""

    iterations: int | None = setting(
        None, "steps (max_batches); steps= and burn_in= follow", group=_KEYS, exclusive="length", at_least=1
    )
    epochs: float | None = setting(
        None, "the same in passes over the images", group=_KEYS, exclusive="length", metavar="N", above=0
    )
    batch: int | None = setting(None, "images per step", group=_KEYS, at_least=1)
    subdivisions: int | None = setting(None, "parts that a step is computed in", group=_KEYS, at_least=1)
    lr: float | None = setting(None, "learning rate", group=_KEYS, above=0)
    policy: Literal["cfg", "cosine", "constant"] | None = setting(
        None, "schedule; cosine falls to 5 %", group=_KEYS, default_text="cfg"
    )
    burn_in: int | None = setting(None, "steps in which the rate rises", group=_KEYS)
    momentum: float | None = setting(None, "of SGD", group=_KEYS)
    decay: float | None = setting(None, "weight decay", group=_KEYS)
    adam: bool | None = setting(None, "Adam instead of SGD", group=_KEYS)
    multi_scale: float | None = setting(None, "random= of the head; 0 for one size", group=_KEYS, metavar="R")
    mosaic: bool | None = setting(None, "four images in one", group=_KEYS)
    mixup: bool | None = setting(None, "two images over each other", group=_KEYS)
    flip: bool | None = setting(None, "mirror half of the images", group=_KEYS)
    no_augment: bool = setting(False, "images as they are", group=_KEYS)
    frozen_bn: bool | None = setting(
        None, "normalise by the running statistics, which stay: for few images", group=_KEYS,
        default_text="for distill --unlabelled",
    )  # fmt: skip
    ema: float | None = setting(
        None, "average the weights with this share of the old, 0.999", group=_KEYS, metavar="A", at_least=0, below=1
    )


@dataclass(frozen=True, kw_only=True)
class GradualSettings(Settings):
    """Pruning inside a training run, see `darkprune.training.gradual`."""

    prune_to: float | None = setting(
        None, "what to keep of the network, as a fraction (0.5): slimmer step by step, while it learns",
        group=_PRUNING, metavar="F", above=0, below=1,
    )  # fmt: skip
    prune_of: Literal["macs", "params", "channels"] = setting("macs", "of which quantity", group=_PRUNING)
    prune_from: float | None = setting(
        None, "epoch at which it begins", group=_PRUNING, metavar="E", default_text="a tenth of the run", at_least=0
    )
    prune_until: float | None = setting(
        None, "epoch at which it is done", group=_PRUNING, metavar="E", default_text="six tenths"
    )
    prune_every: float | None = setting(
        None, "epochs between cuts", group=_PRUNING, metavar="E", default_text="a tenth of the way", above=0
    )
    prune_schedule: Literal["cubic", "linear"] = setting("cubic", "how the removed share rises", group=_PRUNING)
    prune_criterion: Criterion = setting("bn_gamma", "score of a channel", group=_PRUNING, choices=CRITERIA)
    prune_allocation: Allocation = setting("uniform", "how it is shared out", group=_PRUNING, choices=_BY_ONE_RATIO)
    prune_merge: Merge = setting("vote", "public mask of coupled convolutions", group=_PRUNING)
    prune_round_to: int = setting(1, "widths in multiples of N where possible", group=_PRUNING, at_least=1)
    prune_min_channels: int = setting(8, "fewest channels of a convolution", group=_PRUNING, at_least=1)
    prune_exclude: tuple[int, ...] = setting((), "layers whose channels all stay", group=_PRUNING, metavar="L1,L2,…")
    groups: str = setting(
        "auto", f"division of the network: auto, {', '.join(GROUP_PRESETS)}, or ranges (histograms, maps, --prune-to)",
        metavar="GROUPS",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Checks that nothing is given without `prune_to`; see `Settings`."""
        super().__post_init__()
        if self.prune_to is None:
            _refuse_without(self, "--prune-to F", GradualSettings, but="groups")

    def prune_settings(self, ratio: float) -> Selection:
        """Returns how to choose channels at a ratio."""
        return Selection(
            ratio=ratio,
            groups=self.groups,
            allocation=self.prune_allocation,
            merge=self.prune_merge,
            criterion=self.prune_criterion,
            round_to=self.prune_round_to,
            min_channels=self.prune_min_channels,
            exclude=self.prune_exclude,
            constant="beta",  # γ are 0 at the cut
        )


@dataclass(frozen=True, kw_only=True)
class RunSettings(TrainingKeys, GradualSettings):
    """What `train` and `distill` have in common."""

    valid: PathLike | None = setting(
        None, "another set to measure mAP on", group=_DATA, metavar="F", default_text="the data's own"
    )
    names: PathLike | None = setting(None, "names of the classes, in order", group=_DATA, metavar="F")
    strict: bool = setting(False, "stop at anything wrong with labels or images", group=_DATA)
    workers: int | None = setting(None, "processes that prepare images", group=_DATA, default_text="one per core")
    no_cache: bool = setting(False, "do not keep decoded images in memory", group=_DATA)
    size: str | None = setting(None, "another input size than the cfg's", group=_RUN, metavar="WxH")
    resume: bool = setting(False, "continue the run in DIR, exactly where it was", group=_RUN)
    overwrite: bool = setting(False, "replace an earlier run", group=_RUN)
    freeze: int = setting(0, "leave the first N layers exactly as they are", group=_RUN)
    seed: int = setting(0, "of everything random", group=_RUN, at_least=0)
    device: str = setting("auto", "cpu, cuda, cuda:1", group=_RUN, metavar="D", default_text="a GPU if there is one")
    precision: Precision | None = setting(
        None, "of the forward pass", group=_RUN, default_text="fp16 on GPUs, else full"
    )
    save_every: int = setting(100, "steps between states", group=_RUN, at_least=1)
    keep_every: int | None = setting(
        None, "steps between weights that stay", group=_RUN, default_text="1000, or 10000", at_least=1
    )
    eval_every: int | None = setting(
        None, "steps between measurements", group=_RUN, default_text="an epoch, at least 100", at_least=1
    )
    no_tensorboard: bool = setting(False, "write no TensorBoard events", group=_RUN)

    def __post_init__(self) -> None:
        """Checks the values; see `Settings`."""
        super().__post_init__()
        if self.resume and self.overwrite:
            raise UsageError("--resume continues a run, --overwrite replaces it; give one of them")


@dataclass(frozen=True, kw_only=True)
class SparsitySettings(Settings):
    """Sparse training, see `darkprune.training.sparsity`."""

    sparsity: Literal["constant", "dynamic"] | None = setting(
        None, "draw γ to zero: for all channels (constant), or from --switch on less for those with the largest γ",
        group=_SPARSE,
    )  # fmt: skip
    s: float | str | None = setting(
        None, "weight of Σ|γ| per step of the optimiser, or auto: as large as --ratio needs", group=_SPARSE,
        metavar="X", default_text="auto", at_least=0,
    )  # fmt: skip
    switch: float = setting(0.5, "part of the run at which dynamic chooses", group=_SPARSE, at_least=0, at_most=1)
    keep_fraction: float | None = setting(
        None, "share of the channels that are spared then", group=_SPARSE, default_text="what --ratio keeps",
        at_least=0, at_most=1,
    )  # fmt: skip
    reselect: bool = setting(False, "choose them again after every epoch", group=_SPARSE)
    no_coupled: bool = setting(False, "leave convolutions joined by shortcuts alone", group=_SPARSE)
    sparsity_preset: Literal["yolov4", "yolov3", "mobilenet-yolov3"] | None = setting(
        None, "published setting: s, SGD, batch, 416 pixels, 200 epochs of cosine from 0.002", group=_SPARSE
    )
    ratio: float = setting(
        0.65, "share of the channels to be pruned later: --s auto lets as many γ vanish by the --switch", group=_SPARSE,
        at_least=0, at_most=1,
    )  # fmt: skip
    exclude: tuple[int, ...] = setting(
        (), "layers that pruning will leave alone: their γ are not penalised", group=_SPARSE, metavar="L1,L2,…"
    )

    def __post_init__(self) -> None:
        """Reads `s`, and checks that nothing is given without `sparsity`; see `Settings`."""
        if self.s not in (None, "auto"):
            try:
                object.__setattr__(self, "s", float(str(self.s)))
            except ValueError:
                raise UsageError(f"--s {str(self.s)[:40]}: give a number, or auto") from None
        super().__post_init__()
        if self.sparsity is None and self.sparsity_preset is None:
            _refuse_without(self, "--sparsity constant or dynamic", SparsitySettings)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings, SparsitySettings):
    """How to train on labelled images."""

    classes: int | None = setting(
        None, "rewrite the heads for N classes; with WEIGHTS of another number all other layers start from these",
        at_least=1,
    )  # fmt: skip
    backbone: PathLike | None = setting(
        None, "start from a file of the first layers alone, such as yolov4.conv.137", metavar="F"
    )


@dataclass(frozen=True, kw_only=True)
class DistillSettings(RunSettings):
    """How a student learns from its teacher; None takes the preset's value."""

    data: PathLike | None = setting(
        None, "a .data file, an image list, a Pascal VOC folder, or COCO JSON", group=_DATA, metavar="F"
    )
    unlabelled: PathLike | None = setting(
        None, "learn from images without labels, a folder or a list (and measure on --data or --valid)",
        group=_DATA, metavar="DIR",
    )  # fmt: skip
    preset: DistillPreset = setting(
        "objectness",
        "paper: the paper's losses, balanced; paper-literal: as printed; chu2022: as in its program; objectness: all "
        "predictions, scaled by the teacher's objectness; features: the maps before the heads, channel by channel",
        group=_COMPARED,
    )
    taps: str | None = setting(
        None, "the teacher's layers whose maps are compared, with weights", group=_COMPARED, metavar="L:W,…"
    )
    attention_weight: float = setting(1.0, "factor on the term of the maps", group=_COMPARED, metavar="W")
    temperature: float | None = setting(None, "T of the class scores", group=_COMPARED, default_text="3", above=0)
    class_weight: float | None = setting(None, "of the soft class scores", group=_COMPARED, metavar="W", at_least=0)
    box_weight: float | None = setting(None, "of the soft boxes", group=_COMPARED, metavar="W", at_least=0)
    box_threshold: float | None = setting(
        None, "overlap of a prior that takes part", group=_COMPARED, metavar="I", default_text="0.2", at_least=0
    )
    hard_weight: float | None = setting(
        None, "of the loss against labels; 0 leaves it out", group=_COMPARED, metavar="W", default_text="1", at_least=0
    )
    plan: PathLike | None = setting(
        None,
        "plan.json that the student was cut by; needed after --units, and by features",
        group=_COMPARED,
        metavar="FILE",
        default_text="plan.json beside the student's cfg",
    )


def given(settings: object, *names: str) -> dict[str, Any]:
    """Returns the named fields that are not None: what replaces a cfg's or a preset's values."""
    return {name: value for name in names if (value := getattr(settings, name)) is not None}


def _refuse_without(settings: object, needed: str, kind: type[object], but: str = "") -> None:
    """Refuses fields of a class that have no effect without another setting."""
    for name, entry in declared(kind).items():
        if name != but and getattr(settings, name) != entry.default:
            raise UsageError(f"--{entry.flag} belongs to {needed}")
