"""The page about a run: its sections in their order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from darkprune.pages import plots
from darkprune.pages.context import Missing, ReportContext, Section
from darkprune.pages.markup import Node, document, tag
from darkprune.pages.sections import channels, networks, pictures, results, run

_SECTIONS = (
    networks.outcome,
    results.results,
    run.stages,
    networks.accuracy,
    networks.detections,
    pictures.samples,
    run.comparisons,
    run.cliffs,
    networks.speed,
    channels.groups,
    channels.coupled,
    channels.gammas,
    run.curves,
    pictures.attention,
    run.commands,
)


@dataclass(frozen=True)
class RunPage:
    """A finished page.

    Attributes:
        html: the file.
        titles: of its sections.
        missing: sections that it does not have.
    """

    html: bytes
    titles: tuple[str, ...]
    missing: tuple[Missing, ...]


def make_run_page(context: ReportContext) -> RunPage:
    """Makes the page; `context.diagrams` collects its diagrams."""
    parts = [section(context) for section in _SECTIONS]
    found = [part for part in parts if isinstance(part, Section)]
    about_a_network = context.networks or context.contents.results  # a comparison or a sweep stands by itself
    missing = [part for part in parts if isinstance(part, Missing)] if about_a_network else []
    folder = context.contents.folder
    name = Path(os.path.abspath(folder)).name
    cfg = Path(context.networks[0].graph.cfg.source).name if context.networks else name
    body: list[Node] = [
        tag("h1", f"{name}: {cfg}" if cfg != name else name),
        tag("p", tag("code", str(folder)), class_="soft"),
        tag("nav", [tag("a", part.title, href=f"#{part.key}") for part in found]),
        [tag("p", problem, class_="note") for problem in context.contents.problems[:20]],
        None if plots.available() else tag("p", plots.MISSING, class_="note"),
        [tag("section", tag("h2", part.title, id=part.key), part.nodes) for part in found],
        _missing_section(missing),
    ]
    return RunPage(document(f"{name} · darkprune report", body), tuple(part.title for part in found), tuple(missing))


def _missing_section(missing: list[Missing]) -> Node:
    if not missing:
        return None
    return tag(
        "section",
        tag("h2", "Not in this report"),
        [tag("p", part.what, ": ", tag("code", part.how), class_="missing") for part in missing],
    )
