"""Settings of `compress`: its own, and those of its stages, from a TOML file with a section per stage or one by one.

TOML because its values have types and lists, and because Python reads it since 3.11 (`tomllib`; `tomli`, the same
code, serves 3.10); an INI file would have neither.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from darkprune.darknet.input import read_file
from darkprune.errors import UsageError
from darkprune.settings import PathLike, Settings, declared, from_mapping, nearest, setting
from darkprune.targets import target, targets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: stages of a run, in order
STAGES = ("sparse", "prune", "recover", "factorize", "distill", "finetune", "evaluate", "verify", "export")
#: settings of `prune` that say how much goes; one of them is given
AMOUNTS = ("ratio", "ratios", "preset", "target_params", "target_macs", "target_size", "target_latency")
#: settings that exclude each other: what the user sets takes the place of a default
ALTERNATIVES = (
    ("iterations", "epochs", "sparsity_preset"),
    AMOUNTS,
    *((name, "sparsity_preset") for name in ("sparsity", "s", "batch", "lr", "policy", "adam", "burn_in")),
)
#: settings that do not change a result
WITHOUT_EFFECT = (
    "device", "workers", "no_cache", "jobs", "save_every", "keep_every", "no_tensorboard", "resume", "overwrite",
    "force",
)  # fmt: skip

BATCH = 16
#: of training that starts from a good checkpoint: darknet's own schedules are made for fresh weights
RECIPE: Mapping[str, object] = {"batch": BATCH, "adam": True, "lr": 0.001, "policy": "cosine", "burn_in": 50}
SPARSE_EPOCHS, TUNE_EPOCHS, UNLABELLED_EPOCHS = 40, 100, 40
#: without labels there is nothing but the teacher to hold the student to
UNLABELLED_RATE = 0.0005
#: images below which nothing is learnt from the teacher alone unless a setting says so: 260 made a network worse
FEWEST_UNLABELLED = 1000
FEWEST_STEPS, MOST_STEPS = 500, 20_000
MOST_SIZES = 4  #: smaller inputs at which a network is pruned for a budget of operations

MAX_BYTES = 1 << 20  #: of a settings file
OWN = "compress"  #: the section of the run's own settings
_GIVEN, _RUN = "what there is to work with (more is better; nothing is needed)", "the run"
_AMOUNT = ("target_macs", "target_params", "target_size", "target_latency", "ratio")
_TRAINED, _BY_COMPRESS = ("sparse", "distill", "finetune"), "compress gives that itself"
#: settings of stages that the user does not give there, and why not
_NOT_HERE = {
    **dict.fromkeys(("output", "resume", "overwrite", "json", "plan", "help", "unlabelled"), _BY_COMPRESS),
    **dict.fromkeys(("data", "valid", "images", "names"), "say it once, in [compress] or on the command line"),
    "plan_only": "write a plan with darkprune prune --plan-only",
    "recover": "that is a stage of its own: [recover]",
}

#: section -> key -> value
Tables = dict[str, dict[str, object]]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class CompressSettings(Settings):
    """How a checkpoint is compressed.

    Attributes:
        stages: settings of the stages where they are not the defaults: stage -> field of its settings class -> value,
            such as `{"distill": {"epochs": 50}}`.
    """

    data: PathLike | None = setting(
        None, "labelled images to train on: .data, VOC folder, COCO JSON, list", group=_GIVEN, metavar="F"
    )
    valid: PathLike | None = setting(
        None, "another labelled set to measure mAP on", group=_GIVEN, metavar="F", default_text="the data's own"
    )
    images: PathLike | None = setting(None, "images without labels: a folder or a list", group=_GIVEN, metavar="DIR")
    names: PathLike | None = setting(
        None, "names of the classes, in order", group=_GIVEN, metavar="F", default_text="the data's"
    )
    target_macs: str | float | None = setting(None, "what to keep: 0.5 or 12G", exclusive="amount", metavar="V")
    target_params: str | float | None = setting(None, "what to keep: 0.5 or 24M", exclusive="amount", metavar="V")
    target_size: str | float | None = setting(None, "what to keep: 0.5 or 90MB", exclusive="amount", metavar="V")
    target_latency: str | float | None = setting(
        None, "what to keep of the time on [prune] runner, opencv if none: 0.5 or 12ms", exclusive="amount",
        metavar="V",
    )  # fmt: skip
    ratio: float | None = setting(None, "fraction of the channels to remove instead", exclusive="amount", metavar="P")
    way: Literal["sparse", "refit", "best"] = setting(
        "refit",
        "with labels: refit, pruning by what a least-squares refit leaves; sparse, training that prepares for pruning "
        "by γ instead; best, both, each distilled and fine-tuned: the best of the four",
    )
    fixed_input: bool = setting(False, "leave the input size alone, which else is one of the means to save operations")
    target: str | None = setting(None, "what it will run on; a board gets a kit", choices=tuple(targets()))
    skip: tuple[str, ...] = setting(
        (), "leave a stage out (may be repeated)", group=_RUN, choices=STAGES, repeated=True, metavar="STAGE"
    )
    begin: str | None = setting(None, "do this stage and those after it again", group=_RUN, choices=STAGES, flag="from")
    device: str | None = setting(
        None, "to train on: cpu, cuda, cuda:1", group=_RUN, metavar="D", default_text="a GPU if there is one"
    )
    workers: int | None = setting(None, "processes that prepare images", group=_RUN, default_text="one per core")
    overwrite: bool = setting(False, "forget what an earlier run in the folder has done", group=_RUN)
    stages: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that the stages exist, and that something is to be pruned; see `Settings`."""
        super().__post_init__()
        for section in self.stages:
            if section not in STAGES:
                raise UsageError(f"settings: no section [{section}]; {nearest(section, (*STAGES, OWN))}")
        if "prune" in self.skip:
            raise UsageError("--skip prune: a run without pruning is darkprune train, distill or export by itself")
        if not {*self.amount(), *self.stages.get("prune", {})} & {*AMOUNTS, "units", "unit_ratio", "similarity"}:
            raise UsageError(
                "say how much to keep with --target-macs 0.5, --target-params 24M or --target-size 90MB, or how "
                "much to remove with --ratio 0.4"
            )

    @property
    def board(self) -> bool:
        """Whether the result runs on a board, so that a kit is written."""
        return self.target is not None and bool(target(self.target).tensorrt)

    def amount(self) -> dict[str, object]:
        """Returns how much is to go, as a setting of `prune`; nothing where only [prune] says it."""
        return {name: value for name in _AMOUNT if (value := getattr(self, name)) is not None}

    def of_stage(self, stage: str, kind: type[_T], defaults: Mapping[str, object], **given: object) -> _T:
        """Returns the settings of a stage.

        Args:
            defaults: what holds where the user says nothing.
            given: what the run decides; it wins over what the user sets.

        Raises:
            UsageError: a setting that there is not (names the nearest), or one with a wrong value.
        """
        fields = declared(kind)
        by_flag = {entry.flag: name for name, entry in fields.items()}
        own: dict[str, object] = {}
        for key, value in self.stages.get(stage, {}).items():
            name = by_flag.get(key.replace("_", "-"), key.replace("-", "_"))
            if name in _NOT_HERE and not (stage == name == "recover"):
                raise UsageError(f"settings: {key} in [{stage}]: {_NOT_HERE[name]}")
            if name not in fields:
                usable = [flag for flag, field_name in by_flag.items() if field_name not in _NOT_HERE]
                raise UsageError(f"settings: no key {key} in [{stage}]; {nearest(key, usable, 'its keys are')}")
            own[name] = value
        chosen = dict(defaults)
        if stage in _TRAINED:
            chosen |= {name: value for name in ("device", "workers") if (value := getattr(self, name)) is not None}
        for names in ALTERNATIVES:
            if not given.keys().isdisjoint(names):
                own = {name: value for name, value in own.items() if name not in names}
            if not {*given, *own}.isdisjoint(names):
                chosen = {name: value for name, value in chosen.items() if name not in names}
        return from_mapping(kind, {**chosen, **own}, f"settings [{stage}]", **given)


def read_settings(path: Path) -> Tables:
    """Reads a settings file.

    Raises:
        UsageError: it cannot be read, or is not TOML with sections.
    """
    try:
        data: Tables = tomllib.loads(read_file(path, MAX_BYTES, "a settings file", UsageError).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: is not TOML ({str(error)[:100]})") from None
    for name, table in data.items():
        if not isinstance(table, dict):
            raise UsageError(f"--config {path}: {name} stands outside all sections; put it below [{OWN}] or a stage")
    return data


def read_assignment(text: str) -> tuple[str, str, object]:
    """Reads `STAGE.KEY=VALUE`: section, key and value.

    Raises:
        UsageError: it has another form.
    """
    place, equals, value = text.partition("=")
    section, dot, key = place.strip().partition(".")
    if not (equals and dot and section and key):
        raise UsageError(f"--set {text[:60]}: write STAGE.KEY=VALUE, such as distill.epochs=50")
    try:
        read: object = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        read = value.strip()  # a word needs no quotation marks here
    return section.strip(), key.strip(), read


def settings_from(tables: Tables, given: Mapping[str, object]) -> CompressSettings:
    """Returns the settings of a file and a command line.

    Args:
        given: fields that the command line gives; they win over [compress].

    Raises:
        UsageError: something that does not exist, or has a wrong value.
    """
    own = {key.replace("_", "-"): value for key, value in tables.get(OWN, {}).items()}
    amounts = [name.replace("_", "-") for name in _AMOUNT]
    if sum(name in own for name in amounts) > 1:
        raise UsageError(f"settings: [{OWN}] holds more than one of {', '.join(amounts)}")
    if not given.keys().isdisjoint(_AMOUNT):
        own = {name: value for name, value in own.items() if name not in amounts}
    stages = {name: table for name, table in tables.items() if name != OWN}
    flags = {entry.flag: name for name, entry in declared(CompressSettings).items()}
    values = {flags.get(name, name): value for name, value in own.items()}
    return from_mapping(CompressSettings, {**values, **given}, f"settings [{OWN}]", stages=stages)


def steps_for(epochs: int, images: int) -> int:
    """Returns the steps of so many passes over so many images, within bounds."""
    return min(MOST_STEPS, max(FEWEST_STEPS, epochs * math.ceil(images / BATCH)))
