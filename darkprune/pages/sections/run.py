"""Sections about the run itself: stages, training curves, sweeps, comparisons, commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial

from darkprune import __version__
from darkprune.graph.stats import count
from darkprune.pages import plots
from darkprune.pages.contents import TrainingFolder
from darkprune.pages.context import MOST_DRAWN, Missing, ReportContext, Section, not_drawn_note
from darkprune.pages.markup import Node, table, tag
from darkprune.runs.json_file import JsonValue
from darkprune.runs.provenance import provenance
from darkprune.training.records.curves import PERCENT, curves_figure
from darkprune.training.records.log import FIRST, NO_CURVE, read_curves

#: columns of a log that are about speed
_SPEED = ("step", "images_per_s", "wait")
MOST_CURVES = 24
MOST_ROWS = 400
SMALLER_INPUT = "unpruned, smaller input"
AGREEMENT_NOTE = (
    "Agreement is that with what the unpruned network detects (score above 0.05), on average over its own input "
    "size and smaller ones."
)
#: methods of a comparison that make one line of the diagram
CONTROLS = dict.fromkeys(("unpruned", "control"), SMALLER_INPUT)


def curves(context: ReportContext) -> Section | Missing:
    """Shows loss and mAP over training."""
    trainings = context.contents.trainings
    if not trainings:
        command = "darkprune distill TEACHER.cfg TEACHER.weights STUDENT.cfg STUDENT.weights --data F -o distilled/"
        return Missing("loss and mAP curves", command)
    nodes: list[Node] = []
    first_drawn = len(trainings) - MOST_DRAWN
    for number, training in enumerate(trainings):
        nodes += _training(context, training, f"curves_{number}" if number >= first_drawn else None)
    nodes.append(not_drawn_note(len(trainings), "trainings"))
    return Section("training", "Training", tuple(nodes))


def _training(context: ReportContext, training: TrainingFolder, diagram: str | None) -> list[Node]:
    curves = read_curves(training.log)
    if not curves:
        return [tag("h3", training.name), tag("p", "log.csv has no complete row yet.")]
    facts = [f"{curves[FIRST].steps[-1]} steps"]
    for name in PERCENT:
        steps, values = curves.get(name, NO_CURVE)
        if values:
            best = max(range(len(values)), key=values.__getitem__)
            facts.append(
                f"{name} {100 * values[-1]:.2f} % at the end, best {100 * values[best]:.2f} % at step {steps[best]}"
            )
    nodes: list[Node] = [tag("h3", training.name), tag("p", "; ".join(facts))]
    if diagram is not None:
        names = [name for name in curves if name not in _SPEED]
        names = sorted(names, key=lambda name: (name != "loss", name not in PERCENT, name == "rate"))[:MOST_CURVES]
        alt = f"curves of {training.name}: {', '.join(names)}"
        nodes.append(context.diagrams.add(diagram, partial(curves_figure, curves, names), alt))
    return nodes


def cliffs(context: ReportContext) -> Section | None:
    """Shows the results of sweeps over the pruning ratio."""
    nodes: list[Node] = []
    for number, (name, record) in enumerate(context.contents.cliffs.items()):
        nodes.append(tag("h3", name))
        points, base = _sweep_points(record)
        if points and number < MOST_DRAWN:
            figure = partial(plots.tradeoff, points, base, *_axis_of(record))
            alt = f"{record['metric'].text} over multiply-adds"
            nodes.append(context.diagrams.add(f"cliff_{number}", figure, alt))
        if record["pruned"]:
            nodes.append(_sweep_table(record))
            if record["metric"].text == "agreement":
                nodes.append(tag("p", AGREEMENT_NOTE, class_="note"))
        else:
            measured = len(record["points"].fields)
            note = f"The sweep is not finished ({measured} networks measured); its command goes on with it."
            nodes.append(tag("p", note, class_="note"))
    return Section("cliff", "How far it can go", tuple(nodes)) if nodes else None


def _axis_of(record: JsonValue) -> tuple[str, float]:
    """Returns the label of a sweep's values, and the factor that they are shown with."""
    metric = record["metric"].text
    if metric == "distance":
        return "distance to the unpruned outputs", 1.0
    return "agreement with the unpruned network, %" if metric == "agreement" else "mAP@0.5, %", 100.0


def _sweep_points(record: JsonValue) -> tuple[list[tuple[str, float, float]], tuple[float, float]]:
    """Returns the points of a sweep (line, multiply-adds, value), and the unpruned network's, where all lines begin."""
    lines = {"pruned": "pruned", "recovered": "pruned and recovered", "control": SMALLER_INPUT}
    found = [
        (label, row["macs"].number, row["value"].number) for key, label in lines.items() for row in record[key].items
    ]
    points = [(label, macs, value) for label, macs, value in found if macs is not None and value is not None]
    base = (max((macs for _, macs, _ in points), default=0.0), record["unpruned"].number or 0.0)
    points += [(label, *base) for label in dict.fromkeys(label for label, _, _ in points)]
    return points, base


def _sweep_table(record: JsonValue) -> Node:
    _, factor = _axis_of(record)

    def shown(row: JsonValue, key: str) -> str:
        value = row[key].number
        return "" if value is None else f"{factor * value:.2f}" if factor > 1 else f"{value:.4f}"

    recovered = {row["ratio"].number: row for row in record["recovered"].items}
    rows = [
        (
            f"{row['ratio'].number or 0:g}",
            count(row["params"].number or 0),
            count(row["macs"].number or 0),
            f"{100 * (row['macs_removed'].number or 0):.1f} %",
            shown(row, "value"),
            *([shown(recovered.get(row["ratio"].number, JsonValue(None)), "value")] if recovered else []),
            shown(row, "control"),
        )
        for row in record["pruned"].items[:MOST_ROWS]
    ]
    more = ["recovered"] if recovered else []
    return table(("ratio", "parameters", "MACs", "removed", record["metric"].text, *more, "smaller input"), rows)


_COMPARED = (
    "method",
    "budget",
    "recovery",
    "mAP@0.5",
    "0.5:0.95",
    "parameters",
    "MACs",
    "ms",
    "seconds",
    "smaller input",
)


def comparisons(context: ReportContext) -> Section | None:
    """Shows methods side by side."""
    nodes: list[Node] = []
    for number, (name, record) in enumerate(context.contents.comparisons.items()):
        lines = record["rows"].items[:MOST_ROWS]
        found = [(_method(line), line["macs"].number, line["map50"].number) for line in lines]
        points = [(method, macs, value) for method, macs, value in found if macs is not None and value is not None]
        base = next(((macs, value) for method, macs, value in points if method == "unpruned"), None)
        drawn = [(CONTROLS.get(method, method), macs, value) for method, macs, value in points]
        figure = partial(plots.tradeoff, drawn, base) if base and number < MOST_DRAWN else None
        about = ", ".join(record["about"][key].text for key in ("cfg", "data", "runner") if record["about"][key].text)
        nodes += [
            tag("h3", name),
            tag("p", about, class_="soft"),
            context.diagrams.add(f"compare_{number}", figure, "mAP of every method over multiply-adds"),
            table(_COMPARED, [_compared(line) for line in lines], left=3),
            [tag("p", f"{', '.join(cells)}: {reason}", class_="note") for reason, cells in _failures(lines).items()],
        ]
    return Section("compare", "Methods compared", tuple(nodes)) if nodes else None


def _failures(lines: Sequence[JsonValue]) -> dict[str, list[str]]:
    """Returns reason -> the cells that failed for it."""
    failures: dict[str, list[str]] = {}
    for line in lines:
        if line["failed"].text:
            failures.setdefault(line["failed"].text, []).append(f"{_method(line)} at {line['budget'].text}")
    return failures


def _method(line: JsonValue) -> str:
    name = line["method"].text or line["kind"].text
    recovery = line["recovery"].text
    return f"{name}, {recovery}" if recovery and recovery != "none" else name


def _compared(line: JsonValue) -> list[Node]:
    def shown(key: str, form: str = "{:.2f}", factor: float = 1) -> str | None:
        value = line[key].number
        return None if value is None else form.format(factor * value)

    def counted(key: str) -> str | None:
        value = line[key].number
        return None if value is None else count(value)

    spread = shown("map50_std", " ±{:.2f}", 100) if (line["seeds"].number or 0) > 1 else None
    return [
        line["method"].text or line["kind"].text,
        line["budget"].text or f"{line['width'].number or 0:g}×{line['height'].number or 0:g}",
        line["recovery"].text,
        "failed" if line["failed"].text else f"{shown('map50', factor=100) or ''}{spread or ''}",
        shown("map", factor=100),
        counted("params"),
        counted("macs"),
        shown("ms"),
        shown("seconds", "{:.0f}"),
        shown("control", factor=100),
    ]


def stages(context: ReportContext) -> Section | None:
    """Shows the stages of a `compress` run."""
    rows: list[list[Node]] = []
    recorded = context.contents.manifest["stages"].fields
    key, title = "map50", "mAP@0.5"
    if not any(stage["result"]["map50"].number is not None for stage in recorded.values()):
        key = title = "agreement"
    for name, stage in recorded.items():
        settings = ", ".join(f"{flag} {value.text}" for flag, value in stage["settings"].fields.items())
        seconds, result = stage["seconds"].number, stage["result"][key].number
        rows.append(
            [
                name,
                tag("span", settings, class_="list"),
                "yes" if stage["done"].value is True else "no",
                None if seconds is None else f"{seconds:.0f} s",
                None if result is None else f"{100 * result:.2f} %",
            ]
        )
    if not rows:
        return None
    return Section("stages", "Stages", (table(("stage", "settings", "done", "took", title), rows, left=2),))


def commands(context: ReportContext) -> Section:
    """Shows how the run was made: commands, files, versions."""
    contents = context.contents
    recorded = [line for made in contents.made for line in made.record["commands"].texts]
    recorded += [shlex.join(stage["command"].texts) for stage in contents.manifest["stages"].fields.values()]
    lines = [line for line in dict.fromkeys(recorded) if line]
    nodes: list[Node] = [
        tag("pre", "\n".join(lines))
        if lines
        else tag("p", "The run does not say which commands made it.", class_="soft")
    ]
    files: list[list[Node]] = [
        [f"{cut.name}: {kind[:-1]}", entry["name"].text, tag("code", entry["sha256"].text)]
        for cut in contents.cuts
        for kind in ("inputs", "outputs")
        for entry in cut.report[kind].fields.values()
    ]
    if files:
        whole = table(("", "file", "SHA-256"), files, left=3)
        nodes.append(tag("details", tag("summary", "files and their SHA-256"), whole))
    versions: dict[tuple[str, str], list[str]] = {}
    here = JsonValue({"darkprune": __version__, **provenance()})
    for name, record in (*((made.name, made.record) for made in contents.made), ("this report", here)):
        for program, value in {"darkprune": record["darkprune"], **record["versions"].fields}.items():
            if value.text:
                versions.setdefault((program, value.text), []).append(name)
    used: list[list[Node]] = [
        [program, text, tag("span", ", ".join(dict.fromkeys(names)), class_="list")]
        for (program, text), names in versions.items()
    ]
    nodes.append(table(("program", "version", "made"), used, left=3))
    return Section("commands", "Commands and versions", tuple(nodes))
