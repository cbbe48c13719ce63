"""The sections about a run: curves, pictures, sweeps, stages, commands."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from darkprune import __version__
from darkprune.graph.stats import count
from darkprune.report import plots
from darkprune.report.contents import Training
from darkprune.report.markup import Node, table, tag
from darkprune.report.records import Record
from darkprune.report.told import MOST_DRAWN, Lack, Section, Told, undrawn
from darkprune.training.records.curves import PERCENT, curves_figure
from darkprune.training.records.log import column, read_log

#: columns of a log that say how fast it went, not how well
_ASIDE = ("step", "images_per_s", "wait")
MOST_ROWS = 400
CONTROLS = dict.fromkeys(("unpruned", "control"), "unpruned, smaller input")  #: one line of the diagram


def curves(told: Told) -> Section | Lack:
    """Tells loss and mAP over training."""
    if not told.contents.trainings:
        return Lack("loss and mAP curves", "darkprune distill TEACHER.cfg TEACHER.weights STUDENT.cfg STUDENT.weights "
                    "--data F -o distilled/")  # fmt: skip
    nodes: list[Node] = []
    trainings = told.contents.trainings
    first_drawn = len(trainings) - MOST_DRAWN
    for number, training in enumerate(trainings):
        nodes += _training(told, training, number, number >= first_drawn)
    nodes.append(undrawn(len(trainings), "trainings"))
    return Section("training", "Training", tuple(nodes))


def _training(told: Told, training: Training, number: int, drawn: bool) -> list[Node]:
    rows = read_log(training.log)
    if not rows:
        return [tag("h3", training.name), tag("p", "log.csv has no complete row yet.")]
    facts = [f"{rows[-1]['step']} steps"]
    for name in PERCENT:
        steps, values = column(rows, name)
        if values:
            best = max(range(len(values)), key=values.__getitem__)
            facts.append(
                f"{name} {100 * values[-1]:.2f} % at the end, best {100 * values[best]:.2f} % at step {steps[best]}"
            )
    names = [name for name in rows[0] if name not in _ASIDE]
    names = sorted(names, key=lambda name: (name != "loss", name not in PERCENT, name == "rate"))[:24]
    figure = curves_figure(rows, names) if drawn and plots.available() else None
    return [
        tag("h3", training.name),
        tag("p", "; ".join(facts)),
        told.album.add(f"curves_{number}", figure, f"curves of {training.name}: {', '.join(names)}"),
    ]


def cliffs(told: Told) -> Section | None:
    """Tells what sweeps found."""
    nodes: list[Node] = []
    for number, (name, record) in enumerate(told.contents.cliffs.items()):
        by_map = record["metric"].text != "distance"
        figure = _sweep_figure(record, by_map) if plots.available() and number < MOST_DRAWN else None
        alt = f"{record['metric'].text} over multiply-adds"
        unfinished = None
        if not record["pruned"]:
            measured = len(record["points"].items)
            unfinished = f"The sweep has not come to its end ({measured} networks measured); its command goes on."
        nodes += [tag("h3", name), told.album.add(f"cliff_{number}", figure, alt),
                  tag("p", unfinished, class_="note") if unfinished else _sweep_table(record, by_map)]  # fmt: skip
    return Section("cliff", "How far it can go", tuple(nodes)) if nodes else None


def _sweep_figure(record: Record, by_map: bool) -> Any:
    """Draws a sweep: pruned, recovered, and the unpruned network at a smaller input."""
    kinds = {"pruned": "pruned", "recovered": "pruned and recovered", "control": "unpruned, smaller input"}
    points = [
        (label, row["macs"].number, row["value"].number) for key, label in kinds.items() for row in record[key].items
    ]
    whole = [(label, macs, value) for label, macs, value in points if macs is not None and value is not None]
    if not whole:
        return None
    base = (max(macs for _, macs, _ in whole), record["unpruned"].number or 0.0)
    whole += [(label, *base) for label in dict.fromkeys(label for label, _, _ in whole)]  # all begin there
    return plots.tradeoff(whole, base, *(() if by_map else ("distance to the unpruned outputs", 1)))


def _sweep_table(record: Record, by_map: bool) -> Node:
    def shown(row: Record, key: str) -> str:
        value = row[key].number
        return "" if value is None else f"{100 * value:.2f}" if by_map else f"{value:.4f}"

    recovered = {row["ratio"].number: row for row in record["recovered"].items}
    rows = [
        (f"{row['ratio'].number or 0:g}", count(row["params"].number or 0), count(row["macs"].number or 0),
         f"{100 * (row['macs_removed'].number or 0):.1f} %", shown(row, "value"),
         *([shown(recovered.get(row["ratio"].number, Record(None)), "value")] if recovered else []),
         shown(row, "control"))
        for row in record["pruned"].items[:MOST_ROWS]
    ]  # fmt: skip
    more = ["recovered"] if recovered else []
    return table(("ratio", "parameters", "MACs", "removed", record["metric"].text, *more, "smaller input"), rows)


def comparisons(told: Told) -> Section | None:
    """Tells how methods compare."""
    nodes: list[Node] = []
    for number, (name, record) in enumerate(told.contents.comparisons.items()):
        lines = record["rows"].items[:MOST_ROWS]
        rows = [_compared(line) for line in lines]
        head = (
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
        points = [(_method(line), line["macs"].number, line["map50"].number) for line in lines]
        whole = [(who, macs, value) for who, macs, value in points if macs is not None and value is not None]
        base = next(((macs, value) for who, macs, value in whole if who == "unpruned"), None)
        drawn = [(CONTROLS.get(who, who), macs, value) for who, macs, value in whole]
        figure = plots.tradeoff(drawn, base) if base and number < MOST_DRAWN and plots.available() else None
        about = ", ".join(record["about"][key].text for key in ("cfg", "data", "runner") if record["about"][key].text)
        nodes += [
            tag("h3", name),
            tag("p", about, class_="soft"),
            told.album.add(f"compare_{number}", figure, "mAP of every method over multiply-adds"),
            table(head, rows, left=3),
            [tag("p", f"{', '.join(cells)}: {reason}", class_="note") for reason, cells in _failures(lines).items()],
        ]
    return Section("compare", "Methods compared", tuple(nodes)) if nodes else None


def _failures(lines: Sequence[Record]) -> dict[str, list[str]]:
    """Returns reason -> the cells that failed for it."""
    failures: dict[str, list[str]] = {}
    for line in lines:
        if line["failed"].text:
            failures.setdefault(line["failed"].text, []).append(f"{_method(line)} at {line['budget'].text}")
    return failures


def _method(line: Record) -> str:
    name = line["method"].text or line["kind"].text
    recovery = line["recovery"].text
    return f"{name}, {recovery}" if recovery and recovery != "none" else name


def _compared(line: Record) -> list[Node]:
    def shown(key: str, form: str = "{:.2f}", factor: float = 1) -> str | None:
        value = line[key].number
        return None if value is None else form.format(factor * value)

    def counted(key: str) -> str | None:
        value = line[key].number
        return None if value is None else count(value)

    budget = line["budget"].text or f"{line['width'].number or 0:g}×{line['height'].number or 0:g}"
    spread = shown("map50_std", " ±{:.2f}", 100) if (line["seeds"].number or 0) > 1 else ""
    return [
        line["method"].text or line["kind"].text, budget, line["recovery"].text,
        "failed" if line["failed"].text else f"{shown('map50', factor=100) or ''}{spread}", shown("map", factor=100),
        counted("params"), counted("macs"), shown("ms"), shown("seconds", "{:.0f}"), shown("control", factor=100),
    ]  # fmt: skip


def stages(told: Told) -> Section | None:
    """Tells the stages of a `compress` run."""
    rows = []
    for name, stage in told.contents.manifest["stages"].fields.items():
        settings = ", ".join(f"{key} {value.text}" for key, value in stage["settings"].fields.items())
        seconds = stage["seconds"].number
        result = stage["result"]["map50"].number
        rows.append((
            name, tag("span", settings, class_="list"), "yes" if stage["done"].value is True else "no",
            None if seconds is None else f"{seconds:.0f} s", None if result is None else f"{100 * result:.2f} %",
        ))  # fmt: skip
    if not rows:
        return None
    return Section("stages", "Stages", (table(("stage", "settings", "done", "took", "mAP@0.5"), rows, left=2),))


def commands(told: Told) -> Section:
    """Tells how it was made: commands, versions, files."""
    lines = []
    for _, record in told.contents.made:
        lines += [line for line in record["commands"].texts if line not in lines]
    for stage in told.contents.manifest["stages"].fields.values():
        words = stage["command"].texts
        line = shlex.join(words)
        if words and line not in lines:
            lines.append(line)
    nodes: list[Node] = [tag("pre", "\n".join(lines))] if lines else []
    if not lines:
        nodes.append(tag("p", "The run does not say which commands made it.", class_="soft"))
    rows: list[tuple[Node, ...]] = []
    for cut in told.contents.cuts:
        for when in ("inputs", "outputs"):
            for entry in cut.record[when].fields.values():
                rows.append((f"{cut.name}: {when[:-1]}", entry["name"].text, tag("code", entry["sha256"].text)))
    if rows:
        nodes.append(
            tag("details", tag("summary", "files and their SHA-256"), table(("", "file", "SHA-256"), rows, left=3))
        )
    made: dict[tuple[str, str], list[str]] = {}
    for name, record in told.contents.made:
        programs = {"darkprune": record["darkprune"], **record["versions"].fields}
        for program, value in programs.items():
            if value.text:
                made.setdefault((program, value.text), []).append(name)
    here = {
        "darkprune": __version__,
        "Python": platform.python_version(),
        "machine": platform.machine(),
    }
    for name in ("numpy", "opencv-python-headless", "torch", "matplotlib"):
        if name.split("-")[0].replace("opencv", "cv2") in sys.modules:
            try:
                here[name] = version(name)
            except PackageNotFoundError:
                continue
    used: list[tuple[Node, ...]] = [
        (program, text, tag("span", ", ".join(names), class_="list")) for (program, text), names in made.items()
    ]
    used += [(name, text, "this report") for name, text in here.items()]
    nodes.append(table(("program", "version", "made"), used, left=3))
    return Section("commands", "Commands and versions", tuple(nodes))
