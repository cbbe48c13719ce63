"""Which stages a run goes through, for what the user has.

| given | stages |
|---|---|
| labels | pruning → least-squares recovery → fine-tuning → mAP → ONNX or kit; `--way` has sparse training too |
| images | at several input sizes: pruning, of units too, or factorisation, recovery → the best by agreement → export |
| the pair alone | a smaller input; pruning and recovery on drawn scenes where the input size is fixed |
"""

from __future__ import annotations

from darkprune.api.conversion.export import ExportSettings
from darkprune.api.conversion.kit import KitSettings
from darkprune.api.evaluate import EvaluateSettings
from darkprune.api.verify import VerifySettings
from darkprune.compression import measuring, stages
from darkprune.compression.available import Available
from darkprune.compression.estimate import cost_of_evaluation
from darkprune.compression.learning import add_distillation, add_finetuning, add_sparse_training
from darkprune.compression.network import RunNetwork
from darkprune.compression.run import CHOSEN, Compression
from darkprune.compression.settings import CompressSettings
from darkprune.compression.slimming import add_factorisation, add_pruning, add_smaller_inputs, add_units
from darkprune.errors import UsageError
from darkprune.runs.record_file import RecordFile
from darkprune.runs.stages import FileSource

DIRECTLY = "directly"  #: the second way of `--way best`, without sparse training


def plan_run(
    original: RunNetwork, records: RecordFile, available: Available, settings: CompressSettings
) -> Compression:
    """Returns a run with all its stages.

    Raises:
        UsageError: a stage is asked for that lacks what it needs; settings that make no sense.
    """
    run = Compression(original, records, available, settings)
    _refuse(run)
    both = settings.way == "best"
    before = add_sparse_training(run) if run.trains_sparsely else original
    students = {} if run.only_input_size else {"": add_pruning(run, before)}
    if both and before is not original:
        students[DIRECTLY] = add_pruning(run, original, DIRECTLY)
    add_smaller_inputs(run)
    add_units(run)
    add_factorisation(run)
    if both:
        for way, student in students.items():
            if run.includes("distill", True):
                add_distillation(run, student, way)
            if run.includes("finetune", True):
                add_finetuning(run, student, way)
    else:
        _add_learning(run)
    _add_measurements(run, last=True)
    _add_choice(run, run.result, available.class_names)
    if run.includes("evaluate", run.graph.net.input.is_map):
        run.add(measuring.timing(original, run.result))
    if run.includes("verify", True):
        run.add(measuring.verification(run, settings.of_stage("verify", VerifySettings, {})))
    if run.includes("export", True):
        _add_export(run)
    return run


def _refuse(run: Compression) -> None:
    """Refuses what needs labels, where there are none."""
    needing = [f"[{name}]" for name in ("sparse", "finetune") if name in run.settings.stages]
    needing += [f"--way {run.settings.way}"] if run.settings.way != "refit" else []
    if needing and run.available.train is None:
        raise UsageError(f"{needing[0]} trains on labels: give some with --data F, or leave it out")


def _add_learning(run: Compression) -> None:
    """Adds fine-tuning where there are labels, else distillation of the best network so far."""
    available = run.available
    labelled = available.train is not None
    distils = run.includes("distill", available.detector and not labelled and available.learns_enough)
    if distils:
        student = run.candidates[-1]
        if run.by_sizes or run.factorised:
            _add_measurements(run)
            student = run.copy_in(CHOSEN, run.folder / CHOSEN)
            _add_choice(run, student, None)
        add_distillation(run, student)
    if run.includes("finetune", labelled and not distils):
        add_finetuning(run, run.networks[-1])


def _add_measurements(run: Compression, last: bool = False) -> None:
    """Adds a measurement of each network that has none yet; in the end that of the control too."""
    available = run.available
    measurable = available.detector and (available.valid or available.held_out) is not None
    if not run.includes("evaluate", measurable):
        return
    done = {stage.name for stage in run.stages}
    networks = [network for network in run.networks if f"evaluate: {network.name}" not in done]
    names = [available.names] if available.names is not None else []
    settings = run.settings.of_stage("evaluate", EvaluateSettings, {}, **{n.role: str(n.path) for n in names})
    data: FileSource
    if available.valid is not None:
        data, count = available.valid, available.valid_count
        found = [measuring.evaluation(network, data, names, settings) for network in networks]
    elif available.held_out is not None:
        data, count, names = available.held_out, len(available.held_out.lines), []
        found = [measuring.comparison(run, network, data) for network in networks]
    else:
        raise UsageError("[evaluate] needs images: give some with --images DIR, --data F or --valid F")
    for network, stage in zip(networks, found, strict=True):
        run.add(stage, cost_of_evaluation(count, run.share(network)))
    if last and not run.by_sizes:
        cost = cost_of_evaluation(count, 2 * run.share(run.candidates[-1]))
        run.add(measuring.control(run, [data, *names], settings), cost)


def _add_choice(run: Compression, made: RunNetwork, names: FileSource | None) -> None:
    """Adds the stage that copies the best of the candidates so far, and the names of its classes."""
    judged = any(stage.kind == "evaluate" for stage in run.stages)
    learns = made.name == CHOSEN  # from a teacher that must have the same layers
    usable = [network for network in run.candidates if not (learns and network in run.factorised)]
    candidates = tuple(usable if judged else usable[-1:])
    run.add(measuring.choice(run, candidates, made, names))


def _add_export(run: Compression) -> None:
    """Adds the writing of an ONNX file or, for a board, of a kit."""
    network, read = run.result, list[FileSource]()
    given: dict[str, str] = {} if run.settings.target is None else {"target": run.settings.target}
    if run.available.class_names is not None:
        names = FileSource("names", network.cfg.with_suffix(".names"))
        read.append(names)
        given["names"] = str(names.path)
    kind: type[KitSettings | ExportSettings] = KitSettings if run.settings.board else ExportSettings
    run.add(stages.conversion(network, read, run.settings.of_stage("export", kind, {}, **given)))
