"""What the sections of a report are made from, and the parts that they make."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

from darkprune.pages import plots
from darkprune.pages.contents import Contents
from darkprune.pages.markup import Node, picture, tag
from darkprune.pages.measure import Measurements, NamedNetwork
from darkprune.pages.structure import Structure
from darkprune.training.records.curves import render_figure

SMALL = 5.5  #: inches up to which a diagram can be read when it is shrunk to a telephone's width
MOST_DRAWN = 6  #: diagrams of one kind: each takes a second, and nobody looks at a page of forty


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    key: str
    title: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Missing:
    """A section that the page does not have.

    Attributes:
        what: the missing part.
        how: the command that makes it, or the reason.
    """

    what: str
    how: str


class Diagrams:
    """Collects the diagrams of a page.

    Attributes:
        files: name -> content, of the files beside the page.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def add(self, name: str, draw: Callable[[], Any] | None, alt: str, caption: str | None = None) -> Element | None:
        """Adds a diagram.

        Args:
            name: of its files, without suffix.
            draw: makes matplotlib's figure; None for no diagram.
            alt: what it shows.
            caption: text below it.

        Returns:
            The diagram for the page; None where there is none, or matplotlib is not installed.
        """
        if draw is None or not plots.available():
            return None
        figure = draw()
        if figure is None:
            return None
        vector = render_figure(figure, "svg")
        self.files[f"{name}.svg"] = vector
        figure.set_layout_engine("none")  # the layout is computed once: it takes half of the time
        self.files[f"{name}.png"] = render_figure(figure, "png")
        inches = figure.get_figwidth()
        width = f"--wide:{inches * 92:.0f}px"
        kind = "plot scroll small" if inches <= SMALL else "plot scroll"
        return tag(
            "figure",
            tag("div", picture(vector, "svg+xml", alt, style=width), class_=kind, tabindex="0"),
            tag("figcaption", caption) if caption else None,
        )


@dataclass(frozen=True)
class ReportContext:
    """Everything that is known about a run.

    Attributes:
        contents: files of its folder.
        networks: the original (where it was found) and the result; those that can be run.
        structure: of the original, beside the result.
        measured: measurements made for the report.
        diagrams: collects the diagrams.
    """

    contents: Contents
    networks: tuple[NamedNetwork, ...]
    structure: Structure | None
    measured: Measurements
    diagrams: Diagrams = field(default_factory=Diagrams)

    def command(self, flags: str) -> str:
        """Returns the command that makes the report again with further flags."""
        return f"darkprune report {shlex.quote(str(self.contents.folder))} {flags} --overwrite"


def not_drawn_note(found: int, what: str) -> Element | None:
    """Returns a note where there are more things than are drawn."""
    if found <= MOST_DRAWN:
        return None
    return tag(
        "p",
        f"The newest {MOST_DRAWN} of {found} {what} are drawn; darkprune report of a single folder draws the others.",
        class_="note",
    )
