"""The section that puts the cuts of a run beside each other; the others tell of the last one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from darkprune.graph.stats import change, count, megabytes
from darkprune.report.contents import Cut
from darkprune.report.markup import Node, table, tag
from darkprune.report.records import Record
from darkprune.report.told import Section, Told

MOST_WARNINGS = 100


def results(told: Told) -> Section | None:
    """Tells what every cut came to, the oldest first."""
    cuts = told.contents.cuts
    if len(cuts) < 2 or told.contents.manifest:  # the stages of `compress` tell theirs
        return None
    figures = {cut.name: _measured(cut) for cut in cuts}
    with_distance, with_map = (any(pair[n] is not None for pair in figures.values()) for n in (0, 1))
    rows = []
    for cut in cuts:
        before, after = cut.record["before"], cut.record["after"]
        distance, map50 = figures[cut.name]
        rows.append([
            cut.name, tag("span", _how(cut), class_="list"), _counted(after["params"], count),
            _counted(after["macs"], count), _removed(before["macs"], after["macs"]),
            _counted(after["bytes"], megabytes),
            *([None if distance is None else f"{distance:.4f}"] if with_distance else []),
            *([None if map50 is None else f"{100 * map50:.2f} %"] if with_map else []),
        ])  # fmt: skip
    head = ("result", "how", "parameters", "MACs", "change", "file", *(["output distance"] if with_distance else []),
            *(["mAP@0.5"] if with_map else []))  # fmt: skip
    shown = told.networks[-1].name if told.networks else cuts[-1].name
    note = f"The page tells of {shown}, the newest; name another one's folder for a report of its own."
    return Section("results", "All cuts", (table(head, rows, left=2), tag("p", note, class_="soft")))


def warnings_of(cuts: Sequence[Cut]) -> list[Node]:
    """Returns what the last cut was warned of, and folded away what only the others were."""
    own = dict.fromkeys(text for cut in cuts[-1:] for text in cut.record["warnings"].texts[:20])
    others = [(cut.name, text) for cut in cuts[:-1] for text in cut.record["warnings"].texts[:20] if text not in own]
    nodes: list[Node] = [tag("p", text, class_="note") for text in own]
    if others:
        shown = [tag("p", f"{name}: {text}", class_="note") for name, text in others[:MOST_WARNINGS]]
        nodes.append(tag("details", tag("summary", f"warnings of earlier cuts: {len(others)}"), shown))
    return nodes


def _how(cut: Cut) -> str:
    """Returns the settings that tell cuts apart."""
    settings = Record(dict(cut.plan.settings))
    told = [settings["criterion"].text, settings["allocation"].text]
    budget, target = settings["budget"]["kind"].text, settings["budget"]["target"].number
    if budget and target is not None:
        told.append(f"{budget} {count(target)}")
    else:
        told.append(_set("ratio", settings))
    told += [_set("units", settings), _set("similarity", settings)]
    recover = cut.record["recovery"]["how"].text
    return ", ".join(text for text in [*told, f"recover {recover}" if recover else ""] if text)


def _set(name: str, settings: Record) -> str:
    value = settings[name].number
    return f"{name} {value:.3g}" if value else ""


def _measured(cut: Cut) -> tuple[float | None, float | None]:
    """Returns output distance and mAP of what the cut left, where `prune` has measured them."""
    lines = {line["network"].text or line["name"].text: line for line in cut.record["comparison"].items}
    last = lines.get("recovered", lines.get("pruned", Record(None)))
    return last["distance"].number, last["map50"].number


def _counted(value: Record, form: Callable[[float], str]) -> str | None:
    return None if value.number is None else form(value.number)


def _removed(before: Record, after: Record) -> str | None:
    return None if before.number is None or after.number is None else change(before.number, after.number)
