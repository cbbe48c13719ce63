"""The stages of a run that measure and choose: mAP or agreement, the control, the best network, times, the check."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from darkprune.api.evaluate import EvaluateSettings, evaluate
from darkprune.api.verify import VerifySettings, verify
from darkprune.compression.network import RunNetwork, input_size
from darkprune.compression.run import Compression
from darkprune.compression.stages import command, decisive, reported
from darkprune.compression.summary import best_of
from darkprune.darknet.output import atomic_file
from darkprune.errors import DarkpruneError
from darkprune.evaluation.control import control_at, control_networks
from darkprune.json_types import JsonMapping
from darkprune.progress import say
from darkprune.runners.base import load_with_any
from darkprune.runners.measure import AGREEMENT
from darkprune.runners.timing import runs_within, time_alternately
from darkprune.runs.stages import FileSource, Stage

INFERENCE = ("onnxruntime", "opencv", "torch")  #: programs to time in, as users will run the result
SECONDS = 10.0  #: of timed runs
RUNS = (5, 50)  #: least and most runs of each network in that time


def evaluation(network: RunNetwork, data: FileSource, read: Sequence[FileSource], settings: EvaluateSettings) -> Stage:
    """Returns the measurement of mAP on labelled images; `read` are names."""

    def work(resume: bool) -> Mapping[str, object]:
        return reported(evaluate(network.pair(), data.path, settings))

    return Stage(
        name=f"evaluate: {network.name}",
        step="evaluate",
        settings=decisive(settings),
        sources=(*network.sources(), data, *read),
        command=command("eval", (*network.files, "--data", data.path), settings),
        work=work,
    )


def comparison(run: Compression, network: RunNetwork, images: FileSource) -> Stage:
    """Returns the comparison of a network with the original on images without labels, see `Judge`."""
    return Stage(
        name=f"evaluate: {network.name}",
        step="compare",
        settings={"sizes": [[graph.net.input.w, graph.net.input.h] for graph in run.judged_at]},
        sources=(*run.original.sources("original"), *network.sources(), images),
        work=lambda resume: run.judge.measure(network.pair().graph, network.weights),
    )


def control(run: Compression, read: Sequence[FileSource], settings: EvaluateSettings) -> Stage:
    """Returns the measurement of the original at the input sizes that cost what the last candidate costs."""
    return Stage(
        name="evaluate: control",
        step="control",
        settings=decisive(settings),
        sources=(*run.original.sources(), FileSource("slim cfg", run.candidates[-1].cfg), *read),
        work=lambda resume: _measure_control(run, settings),
    )


def choice(run: Compression, candidates: tuple[RunNetwork, ...], made: RunNetwork, names: FileSource | None) -> Stage:
    """Returns the copying of the best of several networks, with its plan and class names if there are any."""
    judges = [stage for stage in run.stages if stage.kind == "evaluate"][:1]
    images = run.available.valid or run.available.held_out
    read = [source for network in candidates for source in network.sources(network.name)]
    read += [source for source in (names, images if judges else None) if source is not None]
    copied_plan, copied_names = made.cfg.with_name("plan.json"), made.cfg.with_suffix(".names")

    def work(resume: bool) -> Mapping[str, object]:
        best = best_of(run, candidates)
        copies = dict(zip(made.files, best.files, strict=True))
        plan = best.cfg.with_name("plan.json")
        if plan.is_file():
            copies[copied_plan] = plan
        else:
            copied_plan.unlink(missing_ok=True)  # that of an earlier choice
        if names is not None:
            copies[copied_names] = names.path
        for path, source in copies.items():
            with atomic_file(path, overwrite=True) as file, source.open("rb") as content:
                shutil.copyfileobj(content, file)
        return {"network": best.name}

    return Stage(
        name=made.made_by,
        step="choose",
        settings={name: value for stage in judges for name, value in stage.settings.items()},
        sources=tuple(read),
        work=work,
        files=(*made.files, *([copied_names] if names is not None else [])),
        may_write=(copied_plan,),
    )


def timing(original: RunNetwork, result: RunNetwork) -> Stage:
    """Returns the timing of the result beside the original, on this machine."""
    return Stage(
        name="time",
        step="time",
        sources=(*original.sources("original"), *result.sources()),
        work=lambda resume: _measure_time(original, result),
    )


def verification(run: Compression, settings: VerifySettings) -> Stage:
    """Returns the check that the result is what its plan says."""
    return Stage(
        name="verify",
        step="verify",
        settings=decisive(settings),
        sources=(*run.original.sources("original"), *run.result.sources()),
        work=lambda resume: _check(run, settings),
    )


def _measure_control(run: Compression, settings: EvaluateSettings) -> Mapping[str, object]:
    """Measures the original at the input sizes around the slim network's operations, and interpolates."""
    macs = run.candidates[-1].pair().graph.macs
    graphs = control_networks(run.original.pair().graph, [macs])
    measure = "map50" if run.available.valid is not None else AGREEMENT
    points: list[tuple[int, float]] = []
    for graph in graphs:
        known = run.records.records.get("evaluate: original") if not points else None
        if known is not None and known.done:
            found: JsonMapping = known.result
        elif run.available.valid is not None:
            sized = replace(settings, size=input_size(graph))
            found = evaluate(run.original.pair(), run.available.valid.path, sized).to_json()
        else:
            found = run.judge.measure(graph, run.original.weights)
        if measure not in found:  # distances do not compare networks of different input sizes
            return {}
        points.append((graph.macs, float(found[measure])))
    value = control_at(points, macs)
    if value is None or len(graphs) == 1:
        return {}
    size = input_size(graphs[-1])
    if graphs[-1].macs < macs:
        size = f"{input_size(graphs[-2])} to {size}"
    return {"network": f"original at {size}", measure: value, "macs": macs, "points": [list(p) for p in points]}


def _measure_time(original: RunNetwork, result: RunNetwork) -> Mapping[str, object]:
    """Times original, result and the original at smaller inputs in turn with one image, in the same program."""
    graph, slim = original.pair().graph, result.pair().graph
    smaller = control_networks(graph, [slim.macs])[1:] if graph.heads else []
    runner, before = load_with_any(graph, original.weights, None, taps=False, order=INFERENCE)
    _, after = load_with_any(slim, result.weights, runner, taps=False)
    resized = [load_with_any(each, original.weights, runner, taps=False)[1] for each in smaller]
    networks = [after, before, *resized]
    runs = runs_within(SECONDS, RUNS, networks)
    after_ms, *ms = (median(seconds) * 1e3 for seconds in time_alternately(networks, runs, 0))
    control = control_at(list(zip([graph.macs, *(each.macs for each in smaller)], ms, strict=True)), slim.macs)
    found = {"runner": runner, "runs": runs, "before_ms": ms[0], "after_ms": after_ms}
    return {**found, "control_ms": control} if smaller and control is not None else found


def _check(run: Compression, settings: VerifySettings) -> Mapping[str, object]:
    """Checks the result, see `darkprune.api.verify`.

    Raises:
        DarkpruneError: it is not what its plan says.
    """
    name = run.records.records["result"].result["network"]
    best = next(network for network in run.networks if network.name == name)
    cut = run.cut_of(best)
    if cut is None:
        return {"verdict": "not pruned", "said": "it is the original at a smaller input: nothing was cut"}
    original, plan = run.made_of[cut.name], cut.cfg.with_name("plan.json")
    # not the copy: the report beside the network itself says whether it was refitted
    result = verify(best.pair(), original.pair(), replace(settings, plan=plan))
    if result.verdict == "wrong":
        problem = "; ".join(result.problems[:3]) or "its numbers differ from the original's"
        raise DarkpruneError(f"{run.result.cfg}: {result.describe()}: {problem}")
    if not result.ok:
        say(f"warning: {result.describe()}")
    return {"verdict": result.verdict, "said": result.describe(), "runner": result.runner or None}
