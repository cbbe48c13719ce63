"""The section that compares all cuts of a run; the other sections show the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from darkprune.graph.stats import change, count, megabytes
from darkprune.pages.contents import CutFolder
from darkprune.pages.context import ReportContext, Section
from darkprune.pages.markup import Node, table, tag
from darkprune.runs.json_file import JsonValue

MOST_WARNINGS = 100


def results(context: ReportContext) -> Section | None:
    """Shows the result of every cut, the oldest first."""
    cuts = context.contents.cuts
    if len(cuts) < 2 or context.contents.manifest:  # the stages of `compress` have a section of their own
        return None
    figures = {cut.name: _measured(cut) for cut in cuts}
    with_distance, with_map = (any(pair[n] is not None for pair in figures.values()) for n in (0, 1))
    rows: list[list[Node]] = []
    for cut in cuts:
        before, after = cut.report["before"], cut.report["after"]
        distance, map50 = figures[cut.name]
        cells: list[Node] = [
            cut.name,
            tag("span", _settings_of(cut), class_="list"),
            _shown(after["params"], count),
            _shown(after["macs"], count),
            _change(before["macs"], after["macs"]),
            _shown(after["bytes"], megabytes),
        ]
        if with_distance:
            cells.append(None if distance is None else f"{distance:.4f}")
        if with_map:
            cells.append(None if map50 is None else f"{100 * map50:.2f} %")
        rows.append(cells)
    head = ["result", "how", "parameters", "MACs", "change", "file"]
    head += (["output distance"] if with_distance else []) + (["mAP@0.5"] if with_map else [])
    newest = context.networks[-1].name if context.networks else cuts[-1].name
    note = f"The page shows {newest}, the newest; name another one's folder for a report of its own."
    return Section("results", "All cuts", (table(head, rows, left=2), tag("p", note, class_="soft")))


def warnings_of(cuts: Sequence[CutFolder]) -> list[Node]:
    """Returns the warnings of the last cut, and folded away those that only the others have."""
    own = dict.fromkeys(text for cut in cuts[-1:] for text in cut.report["warnings"].texts[:20])
    others = [(cut.name, text) for cut in cuts[:-1] for text in cut.report["warnings"].texts[:20] if text not in own]
    nodes: list[Node] = [tag("p", text, class_="note") for text in own]
    if others:
        shown = [tag("p", f"{name}: {text}", class_="note") for name, text in others[:MOST_WARNINGS]]
        nodes.append(tag("details", tag("summary", f"warnings of earlier cuts: {len(others)}"), shown))
    return nodes


def _settings_of(cut: CutFolder) -> str:
    """Returns the settings by which cuts differ."""
    settings = JsonValue(dict(cut.plan.settings))
    parts = [settings["criterion"].text, settings["allocation"].text]
    budget, target = settings["budget"]["kind"].text, settings["budget"]["target"].number
    if budget and target is not None:
        parts.append(f"{budget} {count(target)}")
    else:
        parts.append(_setting("ratio", settings))
    parts += [_setting("units", settings), _setting("similarity", settings)]
    recover = cut.report["recovery"]["how"].text
    return ", ".join(text for text in [*parts, f"recover {recover}" if recover else ""] if text)


def _setting(name: str, settings: JsonValue) -> str:
    value = settings[name].number
    return f"{name} {value:.3g}" if value else ""


def _measured(cut: CutFolder) -> tuple[float | None, float | None]:
    """Returns output distance and mAP of the result, where `prune` has measured them."""
    lines = {line["network"].text or line["name"].text: line for line in cut.report["comparison"].items}
    last = lines.get("recovered", lines.get("pruned", JsonValue(None)))
    return last["distance"].number, last["map50"].number


def _shown(value: JsonValue, form: Callable[[float], str]) -> str | None:
    return None if value.number is None else form(value.number)


def _change(before: JsonValue, after: JsonValue) -> str | None:
    return None if before.number is None or after.number is None else change(before.number, after.number)
