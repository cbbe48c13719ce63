"""The stages that a run is made of: each names the function that does it, its settings and what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.api.conversion.export import ExportSettings
from darkprune.api.conversion.kit import KitSettings
from darkprune.api.evaluate import EvaluateSettings
from darkprune.api.factorize import FactorizeSettings
from darkprune.api.prune import PruneSettings
from darkprune.api.verify import VerifySettings
from darkprune.compression import work
from darkprune.compression.network import RunNetwork
from darkprune.compression.settings import WITHOUT_EFFECT
from darkprune.darknet.output import LOCK
from darkprune.kit.schema import ONNX_NAME
from darkprune.kit.writer import kit_files
from darkprune.runs.stages import FileSource, Source, Stage
from darkprune.settings import flags_of, words_of
from darkprune.training.loop.checkpoint import FILES, STATE
from darkprune.training.settings import DistillSettings, TrainSettings

if TYPE_CHECKING:
    from darkprune.compression.run import Compression

#: settings that name what a stage reads: its sources say the same, by content
READ = ("data", "valid", "names", "unlabelled", "plan", "images")
_TRAINING_FILES = tuple(name for name in FILES if name != LOCK)  #: that training may write beside its networks


def training(
    before: RunNetwork, made: RunNetwork, data: FileSource, read: Sequence[Source], settings: TrainSettings
) -> Stage:
    """Returns training on labels.

    Args:
        before: the network that is trained.
        made: what becomes of it.
        data: labelled images.
        read: labelled images to measure on, names.
        settings: of the function.
    """
    output = made.cfg.parent
    return Stage(
        name=made.made_by,
        step="train",
        settings=decisive(settings),
        sources=(*before.sources(), data, *read),
        command=command("train", (*before.files, "--data", data.path), settings, output),
        work=partial(work.train_on_labels, before, data.path, output, settings),
        output=output,
        files=made.files,
        may_write=tuple(output / name for name in _TRAINING_FILES),
        state=output / STATE,
    )


def distillation(
    teacher: RunNetwork, student: RunNetwork, made: RunNetwork, read: Sequence[Source], settings: DistillSettings
) -> Stage:
    """Returns learning from the original.

    Args:
        teacher: the original.
        student: the slim network.
        made: what becomes of it.
        read: images, names, the plan.
        settings: of the function.
    """
    output = made.cfg.parent
    return Stage(
        name=made.made_by,
        step="distill",
        settings=decisive(settings),
        sources=(*teacher.sources("teacher"), *student.sources("student"), *read),
        command=command("distill", (*teacher.files, *student.files), settings, output),
        work=partial(work.distil, teacher, student, output, settings),
        output=output,
        files=made.files,
        may_write=tuple(output / name for name in _TRAINING_FILES),
        state=output / STATE,
    )


def cutting(
    before: RunNetwork, made: RunNetwork, read: Sequence[Source], settings: PruneSettings | FactorizeSettings
) -> Stage:
    """Returns pruning, the replay of a plan, or factorisation.

    Args:
        before: the network that is made smaller.
        made: what becomes of it.
        read: images, the plan.
        settings: of the function, which they decide.
    """
    output = made.cfg.parent
    name = "prune" if isinstance(settings, PruneSettings) else "factorize"
    return Stage(
        name=made.made_by,
        step=name,
        settings=decisive(settings),
        sources=(*before.sources(), *read),
        command=command(name, before.files, settings, output),
        work=partial(work.cut, before, output, settings),
        output=output,
        files=(*made.files, output / "plan.json", output / "report.json"),
    )


def evaluation(network: RunNetwork, data: FileSource, read: Sequence[Source], settings: EvaluateSettings) -> Stage:
    """Returns the measurement of mAP.

    Args:
        network: what is measured.
        data: labelled images.
        read: names.
        settings: of the function.
    """
    return Stage(
        name=f"evaluate: {network.name}",
        step="evaluate",
        settings=decisive(settings),
        sources=(*network.sources(), data, *read),
        command=command("eval", (*network.files, "--data", data.path), settings),
        work=partial(work.measure, network, data.path, settings),
    )


def comparison(run: Compression, network: RunNetwork, images: FileSource) -> Stage:
    """Returns the comparison of a network with the original on images without labels."""
    return Stage(
        name=f"evaluate: {network.name}",
        step="compare",
        settings={"sizes": [[graph.net.input.w, graph.net.input.h] for graph in run.smaller] if run.by_sizes else []},
        sources=(*run.original.sources("original"), *network.sources(), images),
        work=partial(work.measure_without_labels, run, network),
    )


def control(run: Compression, read: Sequence[Source], settings: EvaluateSettings) -> Stage:
    """Returns the measurement of the original at the input sizes that cost what the last candidate costs.

    Args:
        run: the run so far.
        read: images to measure on, names.
        settings: of the evaluation.
    """
    return Stage(
        name="evaluate: control",
        step="control",
        settings=decisive(settings),
        sources=(*run.original.sources(), FileSource("slim cfg", run.candidates[-1].cfg), *read),
        work=partial(work.measure_control, run, settings),
    )


def choice(run: Compression, candidates: tuple[RunNetwork, ...], made: RunNetwork, names: FileSource | None) -> Stage:
    """Returns the copying of the best of several networks.

    Args:
        run: the run so far, whose measurements decide.
        candidates: the networks.
        made: the copy.
        names: names of the classes, which are copied too.
    """
    judges = [stage for stage in run.stages if stage.kind == "evaluate"][:1]
    images = run.available.valid or run.available.held_out
    read: list[Source] = [source for network in candidates for source in network.sources(network.name)]
    read += [source for source in (names, images if judges else None) if source is not None]
    copies = (*made.files, *([made.cfg.with_suffix(".names")] if names is not None else []))
    return Stage(
        name=made.made_by,
        step="choose",
        settings={name: value for stage in judges for name, value in stage.settings.items()},
        sources=tuple(read),
        work=partial(work.put_best, run, candidates, made, names),
        files=copies,
        may_write=(made.cfg.with_name("plan.json"),),
    )


def timing(original: RunNetwork, result: RunNetwork) -> Stage:
    """Returns the timing of the result beside the original, on this machine."""
    return Stage(
        name="time",
        step="time",
        sources=(*original.sources("original"), *result.sources()),
        work=partial(work.measure_time, original, result),
    )


def verification(run: Compression, settings: VerifySettings) -> Stage:
    """Returns the check of the result's cut.

    Args:
        run: the run so far.
        settings: of the function.
    """
    return Stage(
        name="verify",
        step="verify",
        settings=decisive(settings),
        sources=(*run.original.sources("original"), *run.result.sources()),
        work=partial(work.check, run, settings),
    )


def export(network: RunNetwork, read: Sequence[Source], settings: ExportSettings) -> Stage:
    """Returns the writing of an ONNX file beside a network."""
    output = network.cfg.with_suffix(".onnx")
    return Stage(
        name="export",
        step="export",
        settings=decisive(settings),
        sources=(*network.sources(), *read),
        command=command("export", network.files, settings, output),
        work=partial(work.export_network, network, output, settings),
        output=output,
        files=(output,),
    )


def kit(network: RunNetwork, read: Sequence[Source], settings: KitSettings) -> Stage:
    """Returns the writing of a folder for a board beside a network."""
    output = network.cfg.with_name("kit")
    return Stage(
        name="export",
        step="kit",
        settings=decisive(settings),
        sources=(*network.sources(), *read),
        command=command("kit", network.files, settings, output),
        work=partial(work.write_kit_of, network, output, settings),
        output=output,
        files=(output / ONNX_NAME,),
        may_write=tuple(output / name for name in kit_files()),
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
        name: of the command.
        words: what comes before its settings.
        settings: of the stage.
        output: what `-o` names, if anything.
    """
    line = ["darkprune", name, *map(str, words), *words_of(settings, ("resume", "overwrite"))]
    return (*line, "-o", str(output)) if output is not None else tuple(line)
