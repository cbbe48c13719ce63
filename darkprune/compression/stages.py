"""The stages of a run that make files: training, cutting, conversion. Each calls one function of the library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from darkprune.api.conversion.export import ExportSettings, export
from darkprune.api.conversion.kit import KitSettings, write_kit
from darkprune.api.factorize import FactorizeSettings, factorize
from darkprune.api.prune import PruneSettings, prune
from darkprune.api.train import distill, train
from darkprune.compression.network import RunNetwork
from darkprune.compression.settings import WITHOUT_EFFECT
from darkprune.darknet.output import LOCK
from darkprune.kit.schema import ONNX_NAME
from darkprune.kit.writer import kit_files
from darkprune.progress import say
from darkprune.runs.stages import FileSource, Stage
from darkprune.settings import flags_of, words_of
from darkprune.training.loop.checkpoint import FILES, STATE
from darkprune.training.result import TrainResult
from darkprune.training.settings import DistillSettings, RunSettings, TrainSettings

#: settings that name what a stage reads: its sources say the same, by content
READ = ("data", "valid", "names", "unlabelled", "plan", "images")
_Settings = TypeVar("_Settings", bound=RunSettings)


class _Result(Protocol):
    """What the library's functions return."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def to_json(self) -> Mapping[str, object]: ...


def training(
    before: RunNetwork, made: RunNetwork, data: FileSource, read: Sequence[FileSource], settings: TrainSettings
) -> Stage:
    """Returns training of a network on labels; `read` are labelled images to measure on, and names."""

    def learn(settings: TrainSettings) -> TrainResult:
        return train(before.pair(), data.path, made.cfg.parent, settings)

    words = (*before.files, "--data", data.path)
    return _learning(made, "train", words, (*before.sources(), data, *read), settings, learn)


def distillation(
    teacher: RunNetwork, student: RunNetwork, made: RunNetwork, read: Sequence[FileSource], settings: DistillSettings
) -> Stage:
    """Returns learning of a slim network from the original; `read` are images, names and the plan."""

    def learn(settings: DistillSettings) -> TrainResult:
        if settings.plan is not None and not Path(settings.plan).is_file():
            settings = replace(settings, plan=None)
        return distill(teacher.pair(), student.pair(), made.cfg.parent, settings)

    sources = (*teacher.sources("teacher"), *student.sources("student"), *read)
    return _learning(made, "distill", (*teacher.files, *student.files), sources, settings, learn)


def _learning(
    made: RunNetwork,
    name: str,
    words: Sequence[object],
    sources: tuple[FileSource, ...],
    settings: _Settings,
    learn: Callable[[_Settings], TrainResult],
) -> Stage:
    """Returns a stage that trains, and goes on from its state after an interruption."""
    output = made.cfg.parent

    def work(resume: bool) -> Mapping[str, object]:
        result = learn(replace(settings, resume=resume, overwrite=not resume))
        if result.stopped:
            raise KeyboardInterrupt
        return reported(result)

    return Stage(
        name=made.made_by,
        step=name,
        settings=decisive(settings),
        sources=sources,
        command=command(name, words, settings, output),
        work=work,
        output=output,
        files=made.files,
        may_write=tuple(output / name for name in FILES if name != LOCK),
        state=output / STATE,
    )


def cutting(
    before: RunNetwork, made: RunNetwork, read: Sequence[FileSource], settings: PruneSettings | FactorizeSettings
) -> Stage:
    """Returns pruning, the replay of a plan, or factorisation: the settings decide. `read` are images and the plan."""
    output = made.cfg.parent
    name = "prune" if isinstance(settings, PruneSettings) else "factorize"

    def work(resume: bool) -> Mapping[str, object]:
        if isinstance(settings, PruneSettings):
            surgery = prune(before.pair(), replace(settings, overwrite=True), output=output)
        else:
            surgery = factorize(before.pair(), replace(settings, overwrite=True), output=output)
        surgery.close()
        assert surgery.result is not None
        return reported(surgery.result)

    return Stage(
        name=made.made_by,
        step=name,
        settings=decisive(settings),
        sources=(*before.sources(), *read),
        command=command(name, before.files, settings, output),
        work=work,
        output=output,
        files=(*made.files, output / "plan.json", output / "report.json"),
    )


def conversion(network: RunNetwork, read: Sequence[FileSource], settings: ExportSettings | KitSettings) -> Stage:
    """Returns the writing of an ONNX file, or of a folder for a board, beside a network: the settings decide."""
    is_kit = isinstance(settings, KitSettings)
    name, output = ("kit", network.cfg.with_name("kit")) if is_kit else ("export", network.cfg.with_suffix(".onnx"))

    def work(resume: bool) -> Mapping[str, object]:
        if isinstance(settings, KitSettings):
            return reported(write_kit(network.pair(), output, replace(settings, overwrite=True)))
        return reported(export(network.pair(), output, replace(settings, overwrite=True)))

    return Stage(
        name="export",
        step=name,
        settings=decisive(settings),
        sources=(*network.sources(), *read),
        command=command(name, network.files, settings, output),
        work=work,
        output=output,
        files=(output / ONNX_NAME if is_kit else output,),
        may_write=tuple(output / file for file in kit_files()) if is_kit else (),
    )


def decisive(settings: object) -> dict[str, str]:
    """Returns the settings that decide a result, besides what is read, as flags have them."""
    found = flags_of(settings, (*READ, *WITHOUT_EFFECT))
    return {
        name: str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else ",".join(value)
        for name, value in found.items()
    }


def command(name: str, words: Sequence[object], settings: object, output: Path | None = None) -> tuple[str, ...]:
    """Returns the command line that does what a stage does.

    Args:
        words: what comes before its settings.
        output: what `-o` names, if anything.
    """
    line = ["darkprune", name, *map(str, words), *words_of(settings, ("resume", "overwrite"))]
    return (*line, "-o", str(output)) if output is not None else tuple(line)


def reported(result: _Result) -> Mapping[str, object]:
    """Shows the warnings of a result; returns it as JSON values."""
    for line in result.warnings:
        say(f"warning: {line}")
    return result.to_json()
