"""A run told in one page."""

from __future__ import annotations

import os
from pathlib import Path

from darkprune.report import plots
from darkprune.report.markup import Node, document, tag
from darkprune.report.sections import channels as sections_channels
from darkprune.report.sections import networks as sections
from darkprune.report.sections import pictures as sections_pictures
from darkprune.report.sections import results as sections_results
from darkprune.report.sections import run as sections_run
from darkprune.report.told import Lack, Section, Told

#: in their order on the page
_PARTS = (
    sections.outcome,
    sections_results.results,
    sections_run.stages,
    sections.accuracy,
    sections_pictures.samples,
    sections_run.comparisons,
    sections_run.cliffs,
    sections.speed,
    sections_channels.widths,
    sections_channels.coupled,
    sections_channels.gammas,
    sections_run.curves,
    sections_pictures.attention,
    sections_run.commands,
)


def report_page(told: Told) -> tuple[bytes, list[str], list[Lack]]:
    """Writes the page.

    Args:
        told: everything that is known of the run; its album takes the diagrams.

    Returns:
        The HTML file, the titles of its sections, and what it lacks.
    """
    parts = [part(told) for part in _PARTS]
    found = [part for part in parts if isinstance(part, Section)]
    about_a_network = told.networks or told.contents.results  # a comparison or a sweep stands by itself
    lacks = [part for part in parts if isinstance(part, Lack)] if about_a_network else []
    name = Path(os.path.abspath(told.contents.folder)).name
    title = " → ".join(Path(network.graph.cfg.source).name for network in told.networks[:1]) or name
    body: list[Node] = [
        tag("h1", f"{name}: {title}" if title != name else name),
        tag("p", tag("code", told.run), class_="soft"),
        tag("nav", [tag("a", part.title, href=f"#{part.key}") for part in found]),
        [tag("p", problem, class_="note") for problem in told.contents.problems[:20]],
        None if plots.available() else tag("p", plots.MISSING, class_="note"),
        [tag("section", tag("h2", part.title, id=part.key), part.nodes) for part in found],
        _lacking(lacks),
    ]
    return document(f"{name} · darkprune report", body), [part.title for part in found], lacks


def _lacking(lacks: list[Lack]) -> Node:
    if not lacks:
        return None
    return tag(
        "section",
        tag("h2", "Not in this report"),
        [tag("p", lack.what, ": ", tag("code", lack.how), class_="missing") for lack in lacks],
    )
