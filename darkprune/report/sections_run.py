"""The sections about a run: curves, pictures, sweeps, stages, commands."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version

from darkprune import __version__
from darkprune.graph.stats import count
from darkprune.report import plots
from darkprune.report.contents import Training
from darkprune.report.markup import Node, table, tag
from darkprune.report.records import Record
from darkprune.report.told import Lack, Section, Told
from darkprune.training.curves import PERCENT, curves_figure
from darkprune.training.log import column, read_log

#: columns of a log that say how fast it went, not how well
_ASIDE = ("step", "images_per_s", "wait")
MOST_ROWS = 400


def curves(told: Told) -> Section | Lack:
    """Tells loss and mAP over training."""
    if not told.contents.trainings:
        return Lack("loss and mAP curves", "darkprune distill TEACHER.cfg TEACHER.weights STUDENT.cfg STUDENT.weights "
                    "--data F -o distilled/")  # fmt: skip
    nodes: list[Node] = []
    for number, training in enumerate(told.contents.trainings):
        nodes += _training(told, training, number)
    return Section("training", "Training", tuple(nodes))


def _training(told: Told, training: Training, number: int) -> list[Node]:
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
    figure = curves_figure(rows, names) if plots.available() else None
    return [
        tag("h3", training.name),
        tag("p", "; ".join(facts)),
        told.album.add(f"curves_{number}", figure, f"curves of {training.name}: {', '.join(names)}"),
    ]


def cliffs(told: Told) -> Section | None:
    """Tells what sweeps found."""
    nodes: list[Node] = []
    for number, (name, record) in enumerate(told.contents.cliffs.items()):
        percent = 1.0 if record["metric"].text == "distance" else 100.0
        rows = [
            (f"{row['ratio'].number or 0:g}", count(row["params"].number or 0), count(row["macs"].number or 0),
             f"{100 * (row['macs_removed'].number or 0):.1f} %", f"{percent * (row['value'].number or 0):.2f}",
             "" if row["control"].number is None else f"{percent * row['control'].number:.2f}")
            for row in record["pruned"].items[:MOST_ROWS]
        ]  # fmt: skip
        head = ("ratio", "parameters", "MACs", "removed", record["metric"].text, "smaller input")
        points = [
            (kind, row["macs"].number, row["value"].number)
            for kind, key in (("pruned", "pruned"), ("unpruned, smaller input", "control"))
            for row in record[key].items
        ]
        whole = [(kind, macs, value) for kind, macs, value in points if macs is not None and value is not None]
        base = (max((macs for _, macs, _ in whole), default=0.0), record["unpruned"].number or 0.0)
        figure = plots.tradeoff(whole, base) if plots.available() and whole and percent > 1 else None
        nodes += [
            tag("h3", name),
            told.album.add(f"cliff_{number}", figure, "mAP over multiply-adds"),
            table(head, rows),
        ]
    return Section("cliff", "How far it can go", tuple(nodes)) if nodes else None


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
        figure = plots.tradeoff([p for p in whole if p[0] != "unpruned"], base) if base and plots.available() else None
        about = ", ".join(record["about"][key].text for key in ("cfg", "data", "runner") if record["about"][key].text)
        nodes += [
            tag("h3", name),
            tag("p", about, class_="soft"),
            told.album.add(f"compare_{number}", figure, "mAP of every method over multiply-adds"),
            table(head, rows, left=3),
            [tag("p", f"{_method(line)} at {line['budget'].text}: {line['failed'].text}", class_="note")
             for line in lines if line["failed"].text],
        ]  # fmt: skip
    return Section("compare", "Methods compared", tuple(nodes)) if nodes else None


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
    for part in told.contents.results:
        lines += [line for line in part.record["commands"].texts if line not in lines]
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
    made = {f"{part.name}: darkprune": part.record["darkprune"].text for part in told.contents.cuts}
    for part in told.contents.results:
        made |= {f"{part.name}: {name}": value.text for name, value in part.record["versions"].fields.items()}
    here = {
        "report: darkprune": __version__,
        "report: Python": platform.python_version(),
        "machine": platform.machine(),
    }
    for name in ("numpy", "opencv-python-headless", "torch", "matplotlib"):
        if name.split("-")[0].replace("opencv", "cv2") in sys.modules:
            try:
                here[f"report: {name}"] = version(name)
            except PackageNotFoundError:
                continue
    versions = {**made, **here}
    nodes.append(table(("program", "version"), [(name, text) for name, text in versions.items() if text], left=2))
    return Section("commands", "Commands and versions", tuple(nodes))
