"""Sections about the networks: size, accuracy and speed before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkprune.graph.stats import change, count, totals
from darkprune.pages import plots
from darkprune.pages.contents import CutFolder
from darkprune.pages.context import Missing, ReportContext, Section
from darkprune.pages.markup import Node, table, tag
from darkprune.pages.measure import THRESHOLD
from darkprune.pages.network_page import QUANTITIES
from darkprune.pages.plots import ClassPrecision
from darkprune.pages.quality import IOU
from darkprune.pages.sections.channels import at_a_glance
from darkprune.pages.sections.results import warnings_of
from darkprune.runs.json_file import JsonValue


class _Size(NamedTuple):
    """A quantity of the networks before and after."""

    key: str
    label: str
    form: Callable[[float], str]
    before: float
    after: float


#: those that are shown large, with a shorter label
_LARGE = {"params": "parameters", "macs": "multiply-adds", "bytes": "file"}

MOST_CONFUSED = 24  #: classes of a drawn confusion matrix


def outcome(context: ReportContext) -> Section | Missing:
    """Shows what was saved and what it cost."""
    sizes = _sizes(context)
    if not sizes:
        return Missing("before and after", f"darkprune prune CFG WEIGHTS --ratio 0.4 -o {context.contents.folder}")
    saved = [
        (_LARGE[size.key], change(size.before, size.after), f"{size.form(size.before)} → {size.form(size.after)}")
        for size in sizes
        if size.key in _LARGE
    ]
    facts = [
        tag("div", tag("span", label), tag("b", shown), tag("span", detail))
        for label, shown, detail in (*saved, *_measured_facts(context))
    ]
    rows = [
        (size.label, size.form(size.before), size.form(size.after), change(size.before, size.after))
        for size in sizes
        if size.key not in _LARGE
    ]
    whole = tag("details", tag("summary", "further figures"), table(("", "before", "after", "change"), rows))
    cuts = context.contents.cuts
    compared = [_comparison(cut) for cut in cuts[-1:]]
    nodes = (tag("div", facts, class_="facts"), at_a_glance(context), compared, warnings_of(cuts), whole)
    return Section("outcome", "Before and after", nodes)


def _sizes(context: ReportContext) -> list[_Size]:
    structure, cut = context.structure, context.contents.cut
    if structure is not None and structure.slim is not None:
        before, after = (JsonValue(totals(graph).to_json()) for graph in (structure.graph, structure.slim.graph))
    elif cut is not None:
        before, after = cut.report["before"], cut.report["after"]
    else:
        return []
    return [
        _Size(key, label, form, old, new)
        for key, (label, form) in QUANTITIES.items()
        if (old := before[key].number) is not None and (new := after[key].number) is not None
    ]


def _measured_facts(context: ReportContext) -> list[tuple[str, str, str]]:
    facts = []
    maps = [figures.map50 for figures in context.measured.evaluations]
    if len(maps) < 2 or context.contents.manifest:  # a run of `compress` has measured on all images
        maps = _recorded_maps(context) or maps
    if len(maps) == 2:
        facts.append(("mAP@0.5", f"{100 * (maps[1] - maps[0]):+.2f}", f"{100 * maps[0]:.2f} % → {100 * maps[1]:.2f} %"))
    medians = [1e3 * float(np.median(times)) for times in context.measured.seconds]
    if len(medians) == 2:
        facts.append(("time", change(*medians), f"{medians[0]:.2f} ms → {medians[1]:.2f} ms"))
    return facts


def _recorded_maps(context: ReportContext) -> list[float]:
    """Returns mAP before and after, where the run itself has measured both."""
    cut = context.contents.cut
    if context.contents.manifest:
        found = [result["map50"].number for _, result in _evaluations(context.contents.manifest)]
    elif cut is not None:
        named = {
            line["network"].text or line["name"].text: line["map50"].number for line in cut.report["comparison"].items
        }
        results = ("recovered", "pruned", "factorised")
        found = [named.get("original"), next((named[name] for name in results if name in named), None)]
    else:
        return []
    known = [value for value in found if value is not None]
    return known if len(known) == 2 else []


def _evaluations(manifest: JsonValue) -> list[tuple[str, JsonValue]]:
    """Returns the evaluations of the original and of the last network of a `compress` run, by name."""
    found = [
        (name.removeprefix("evaluate: "), stage["result"])
        for name, stage in manifest["stages"].fields.items()
        if name.startswith("evaluate: ") and stage["result"]["per_class"]
    ]
    return [found[0], found[-1]] if len(found) > 1 else found


def _comparison(cut: CutFolder) -> Node:
    """Returns what `prune` measured: the original, the result, and the original at a smaller input."""
    lines = cut.report["comparison"].items
    if not lines:
        return None
    columns = {
        "output distance": ("distance", "{:.4f}", 1),
        "mAP@0.5": ("map50", "{:.2f} %", 100),
        "agreement": ("agreement", "{:.2f} %", 100),
    }
    measured: dict[str, list[str | None]] = {}
    for head, (key, form, factor) in columns.items():
        values = [line[key].number for line in lines]
        if any(value is not None for value in values):
            measured[head] = [None if value is None else form.format(factor * value) for value in values]
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


class _ClassTable(NamedTuple):
    """Average precision per class.

    Attributes:
        names: of the networks.
        rows: class name, average precision of every network, labelled objects.
        about: where the figures come from.
    """

    names: list[str]
    rows: list[tuple[str, tuple[float, ...], int]]
    about: str


def accuracy(context: ReportContext) -> Section | Missing:
    """Shows the average precision of every class."""
    found = _recorded_classes(context.contents.manifest) or _measured_classes(context)
    if found is None:
        return Missing("mAP per class", context.command("--data F"))
    single = len(found.names) == 1
    ordered = sorted(found.rows, key=lambda row: -row[1][0])
    drawn = [
        ClassPrecision(name, aps[0], None if single else aps[-1])
        for name, aps, objects in ordered
        if objects or len(ordered) <= 40
    ][:100]
    heads = ("class", *(f"AP {name}" for name in found.names), *([] if single else ["change"]), "objects")
    body: list[list[Node]] = [
        [name, *(f"{100 * ap:.2f}" for ap in aps), *([] if single else [f"{100 * (aps[-1] - aps[0]):+.2f}"]), objects]
        for name, aps, objects in ordered
    ]
    figure = partial(plots.classes, drawn) if drawn else None
    shown = context.diagrams.add("classes", figure, "average precision of every class, before and after")
    whole: Node = table(heads, body)
    if shown is not None:
        whole = tag("details", tag("summary", f"all {len(ordered)} classes as a table"), whole)
    return Section("classes", "mAP per class", (tag("p", found.about), shown, whole))


def detections(context: ReportContext) -> Section | None:
    """Shows precision over recall, and which classes are taken for which."""
    found = context.measured.qualities
    if not found:
        return None
    names = [network.name for network in context.networks]
    classes = [row.name for row in context.measured.evaluations[0].per_class]
    curves = {
        name: (quality.curves, (quality.recall, quality.precision)) for name, quality in zip(names, found, strict=True)
    }
    reached = ", ".join(
        f"{name} {100 * quality.precision:.1f} % and {100 * quality.recall:.1f} %"
        for name, quality in zip(names, found, strict=True)
    )
    whole = sum(quality.confusion for quality in found)
    chosen, left_out = _most_frequent(np.asarray(whole))
    matrices = {name: quality.confusion[np.ix_(chosen, chosen)] for name, quality in zip(names, found, strict=True)}
    labels = [*classes, "nothing"]
    note = f" {left_out} classes with fewer objects are left out." if left_out else ""
    images = f"{context.measured.evaluations[0].images} images"
    nodes = (
        tag("p", f"Detections with a score above {THRESHOLD:g} on {images}, precision and recall: {reached}."),
        context.diagrams.add(
            "precision_recall",
            partial(plots.precision_recall, curves, classes),
            "precision over recall of every network",
            f"Precision over recall at an overlap of {IOU:g}, per class.",
        ),
        context.diagrams.add(
            "confusion",
            partial(plots.confusion, matrices, [labels[number] for number in chosen]),
            "labelled classes over detected classes, of every network",
            "Objects by labelled and detected class: the last column counts those that are missed, the last row "
            f"detections where nothing is labelled.{note}",
        ),
    )
    return Section("detections", "Precision, recall and confusion", nodes)


def _most_frequent(matrix: NDArray[np.int64]) -> tuple[list[int], int]:
    """Returns the rows of a confusion matrix that are drawn, "nothing" last, and how many others hold anything."""
    last = len(matrix) - 1
    sizes = (matrix.sum(axis=0) + matrix.sum(axis=1))[:last]
    used = [number for number in np.argsort(-sizes, kind="stable").tolist() if sizes[number]]
    return [*sorted(used[:MOST_CONFUSED]), last], max(0, len(used) - MOST_CONFUSED)


def _measured_classes(context: ReportContext) -> _ClassTable | None:
    """Returns what was measured for the report."""
    found = context.measured.evaluations
    if not found:
        return None
    names = [network.name for network in context.networks]
    columns = zip(*(figures.per_class for figures in found), strict=True)
    rows = [(row[0].name, tuple(entry.ap for entry in row), row[0].truths) for row in columns]
    maps = ", ".join(f"{name} {100 * figures.map50:.2f} %" for name, figures in zip(names, found, strict=True))
    coco = ", ".join(
        f"{name} {100 * figures.map:.2f} %"
        for name, figures in zip(names, found, strict=True)
        if figures.map is not None
    )
    about = f"mAP@0.5: {maps}" + (f"; mAP@0.5:0.95: {coco}" if coco else "")
    source = f"{found[0].images} images, {found[0].truths} objects, {context.measured.runner}"
    return _ClassTable(names, rows, f"{about} ({source}).")


def _recorded_classes(manifest: JsonValue) -> _ClassTable | None:
    """Returns what `compress` has measured: the original and the last network."""
    chosen = _evaluations(manifest)
    each = [
        {entry["name"].text: (entry["ap"].number, entry["truths"].number) for entry in result["per_class"].items}
        for _, result in chosen
    ]
    rows: list[tuple[str, tuple[float, ...], int]] = []
    for name, (_, objects) in each[0].items() if each else ():
        aps = [ap for classes in each if (ap := classes.get(name, (None, None))[0]) is not None]
        if len(aps) == len(each):
            rows.append((name, tuple(aps), int(objects or 0)))
    maps = ", ".join(f"{name} {100 * (result['map50'].number or 0):.2f} %" for name, result in chosen)
    about = f"mAP@0.5: {maps}, as the run has measured it."
    return _ClassTable([name for name, _ in chosen], rows, about) if rows else None


def speed(context: ReportContext) -> Section | Missing:
    """Shows the latency of the networks."""
    seconds = context.measured.seconds
    if not seconds:
        return Missing("latency", context.measured.problems.get("networks") or context.command("--runs 20"))
    names = [network.name for network in context.networks]
    milliseconds = {name: [1e3 * value for value in times] for name, times in zip(names, seconds, strict=True)}
    runs = f"{len(seconds[0])} runs in turn, on the machine of the report"
    about = f"One image at a time in {context.measured.runner}, {runs}."
    nodes = (
        tag("p", about, class_="soft"),
        table(("network", "median ms", "p90", "p99", "images/s"), list(map(_latency_row, milliseconds.items()))),
        context.diagrams.add("latency", partial(plots.latency, milliseconds), "milliseconds of every run"),
    )
    return Section("latency", "Latency", nodes)


def _latency_row(timed: tuple[str, Sequence[float]]) -> list[Node]:
    name, values = timed
    return [name, *(f"{np.percentile(values, q):.2f}" for q in (50, 90, 99)), f"{1e3 / np.median(values):.1f}"]
