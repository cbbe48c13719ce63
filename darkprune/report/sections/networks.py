"""The sections about networks: what became of size, accuracy and speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from darkprune.graph.stats import change, count, megabytes, totals
from darkprune.report import plots
from darkprune.report.contents import Cut
from darkprune.report.markup import Node, table, tag
from darkprune.report.records import Record
from darkprune.report.sections.results import warnings_of
from darkprune.report.told import Lack, Section, Told, again

#: class name, average precision of every network, labelled objects
ClassRow = tuple[str, tuple[float, ...], int]


def outcome(told: Told) -> Section | Lack:
    """Tells what was gained and what it cost."""
    rows = _sizes(told)
    if not rows:
        return Lack("before and after", f"darkprune prune CFG WEIGHTS --ratio 0.4 -o {told.run}")
    facts = [
        tag("div", tag("span", name), tag("b", shown), tag("span", more))
        for name, shown, more in (*_facts(rows), *_measured_facts(told))
    ]
    whole = table(
        ("", "before", "after", "change"),
        [(name, shown, now, change(before, after)) for name, shown, now, before, after in rows],
    )
    compared = [_comparison(cut) for cut in told.contents.cuts[-1:]]
    notes = warnings_of(told.contents.cuts)
    return Section("outcome", "Before and after", (tag("div", facts, class_="facts"), whole, compared, notes))


def _sizes(told: Told) -> list[tuple[str, str, str, float, float]]:
    """Returns name, before, after as text and as numbers."""
    if told.structure is not None and told.structure.slim is not None:
        before, after = totals(told.structure.graph).to_json(), totals(told.structure.slim.graph).to_json()
    elif told.contents.cut is not None:
        record = told.contents.cut.record
        before, after = (
            {key: value.number for key, value in record[when].fields.items()} for when in ("before", "after")
        )
    else:
        return []
    forms = {
        "params": ("parameters (stored floats)", count),
        "trainable_params": ("trainable parameters", count),
        "macs": ("multiply-adds", count),
        "bflops": ("BFLOPs as darknet counts", lambda value: f"{value:.3f}"),
        "bytes": ("weights file", megabytes),
    }
    return [
        (name, form(old), form(new), old, new)
        for key, (name, form) in forms.items()
        if (old := before.get(key)) is not None and (new := after.get(key)) is not None
    ]


def _facts(rows: Sequence[tuple[str, str, str, float, float]]) -> list[tuple[str, str, str]]:
    short = {"parameters (stored floats)": "parameters", "multiply-adds": "multiply-adds", "weights file": "file"}
    return [
        (short[name], change(before, after), f"{shown} → {now}")
        for name, shown, now, before, after in rows
        if name in short
    ]


def _measured_facts(told: Told) -> list[tuple[str, str, str]]:
    facts = []
    maps = [figures.map50 for figures in told.measured.evaluations] or _known_maps(told)
    if len(maps) == 2:
        facts.append(("mAP@0.5", f"{100 * (maps[1] - maps[0]):+.2f}", f"{100 * maps[0]:.2f} % → {100 * maps[1]:.2f} %"))
    medians = [1e3 * float(np.median(times)) for times in told.measured.seconds]
    if len(medians) == 2:
        facts.append(("time", change(*medians), f"{medians[0]:.2f} ms → {medians[1]:.2f} ms"))
    return facts


def _known_maps(told: Told) -> list[float]:
    """Returns mAP before and after, where the run itself has measured both."""
    cut = told.contents.cut
    if told.contents.manifest:
        found = [result["map50"].number for _, result in _marks(told.contents.manifest)]
    elif cut is not None:
        named = {
            line["network"].text or line["name"].text: line["map50"].number for line in cut.record["comparison"].items
        }
        found = [named.get("original"), named.get("recovered", named.get("pruned"))]
    else:
        return []
    known = [value for value in found if value is not None]
    return known if len(known) == 2 else []


def _marks(manifest: Record) -> list[tuple[str, Record]]:
    """Returns the evaluations of the original and of the last network that `compress` has made."""
    marks = [
        (name.removeprefix("evaluate: "), stage["result"])
        for name, stage in manifest["stages"].fields.items()
        if name.startswith("evaluate: ") and stage["result"]["per_class"]
    ]
    return [marks[0], marks[-1]] if len(marks) > 1 else marks


def _comparison(cut: Cut) -> Node:
    """Returns what `prune` measured: the original, the result, and the original at a smaller input."""
    lines = cut.record["comparison"].items
    if not lines:
        return None
    measured = {
        head: shown
        for head, key, form, factor in (
            ("output distance", "distance", "{:.4f}", 1),
            ("mAP@0.5", "map50", "{:.2f} %", 100),
        )
        if any(shown := [_shown(line[key].number, form, factor) for line in lines])
    }
    rows = [
        (
            line["network"].text or line["name"].text,
            "×".join(f"{line[key].number or 0:g}" for key in ("width", "height")),
            count(line["macs"].number or 0),
            *(shown[number] for shown in measured.values()),
        )
        for number, line in enumerate(lines)
    ]
    return table(("network", "input", "MACs", *measured), rows, caption=f"measured by {cut.name}")


def _shown(value: float | None, form: str, factor: float = 1) -> str | None:
    return None if value is None else form.format(factor * value)


def accuracy(told: Told) -> Section | Lack:
    """Tells the average precision of every class."""
    names, rows, about = _class_rows(told)
    if not rows:
        return Lack("mAP per class", again(told, "--data F"))
    single = len(names) == 1
    ordered = sorted(rows, key=lambda row: -row[1][0])
    drawn = [
        (name, aps[0], None if single else aps[-1]) for name, aps, objects in ordered if objects or len(rows) <= 40
    ][:100]
    figure = plots.classes(drawn) if plots.available() and drawn else None
    heads = ("class", *(f"AP {name}" for name in names), *([] if single else ["change"]), "objects")
    body: list[list[Node]] = [
        [name, *(f"{100 * ap:.2f}" for ap in aps), *([] if single else [f"{100 * (aps[-1] - aps[0]):+.2f}"]), objects]
        for name, aps, objects in ordered
    ]
    shown = told.album.add("classes", figure, "average precision of every class, before and after")
    whole = tag("details", tag("summary", f"all {len(rows)} classes as a table"), table(heads, body))
    return Section(
        "classes", "mAP per class", (tag("p", about), shown, whole if shown is not None else table(heads, body))
    )


def _class_rows(told: Told) -> tuple[list[str], list[ClassRow], str]:
    found = told.measured.evaluations
    if found:
        names = [network.name for network in told.networks]
        columns = zip(*(figures.per_class for figures in found), strict=True)
        rows = [(row[0].name, tuple(entry.ap for entry in row), row[0].truths) for row in columns]
        maps = ", ".join(f"{name} {100 * figures.map50:.2f} %" for name, figures in zip(names, found, strict=True))
        coco = ", ".join(
            f"{name} {100 * figures.map:.2f} %"
            for name, figures in zip(names, found, strict=True)
            if figures.map is not None
        )
        about = f"mAP@0.5: {maps}" + (f"; mAP@0.5:0.95: {coco}" if coco else "")
        return names, rows, f"{about} ({found[0].images} images, {found[0].truths} objects, {told.measured.runner})."
    return _rows_of_manifest(told.contents.manifest)


def _rows_of_manifest(manifest: Record) -> tuple[list[str], list[ClassRow], str]:
    """Takes what `compress` has measured: the original and the last network."""
    chosen = _marks(manifest)
    each = [
        {entry["name"].text: (entry["ap"].number, entry["truths"].number) for entry in result["per_class"].items}
        for _, result in chosen
    ]
    if not each:
        return [], [], ""
    rows: list[ClassRow] = []
    for name, (_, objects) in each[0].items():
        aps = [classes.get(name, (None, None))[0] for classes in each]
        if all(ap is not None for ap in aps):
            rows.append((name, tuple(ap for ap in aps if ap is not None), int(objects or 0)))
    names = [name for name, _ in chosen]
    maps = ", ".join(f"{name} {100 * (result['map50'].number or 0):.2f} %" for name, result in chosen)
    return names, rows, f"mAP@0.5: {maps}, as the run has measured it."


def speed(told: Told) -> Section | Lack:
    """Tells milliseconds."""
    seconds = told.measured.seconds
    if not seconds:
        return Lack("latency", told.measured.problems.get("networks") or again(told, "--runs 20"))
    names = [network.name for network in told.networks]
    milliseconds = {name: [1e3 * value for value in times] for name, times in zip(names, seconds, strict=True)}
    rows = [
        (name, *(f"{np.percentile(values, q):.2f}" for q in (50, 90, 99)), f"{1e3 / np.median(values):.1f}")
        for name, values in milliseconds.items()
    ]
    figure = plots.latency(milliseconds) if plots.available() else None
    about = (
        f"One image at a time in {told.measured.runner}, {len(seconds[0])} runs in turn, on the machine of the report."
    )
    return Section(
        "latency",
        "Latency",
        (
            tag("p", about, class_="soft"),
            table(("network", "median ms", "p90", "p99", "images/s"), rows),
            told.album.add("latency", figure, "milliseconds of every run"),
        ),
    )
