"""What the sections of a report are told from, and what they give."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

from darkprune.report import plots
from darkprune.report.contents import Contents
from darkprune.report.markup import Node, picture, tag
from darkprune.report.measure import Measured, Network
from darkprune.report.structure import Structure

SMALL = 5.5  #: inches up to which a diagram can be read when it is shrunk to a telephone's width
MOST_DRAWN = 6  #: diagrams of one kind: each takes a second, and a page of forty is not looked at


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: its anchor.
        title: its heading.
        nodes: what stands in it.
    """

    key: str
    title: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Lack:
    """A part that the page does not have.

    Attributes:
        what: what is missing.
        how: the command that makes it, or what to give.
    """

    what: str
    how: str


def undrawn(found: int, what: str) -> Element | None:
    """Says what is left out where there are more than are drawn."""
    if found <= MOST_DRAWN:
        return None
    return tag(
        "p",
        f"The newest {MOST_DRAWN} of {found} {what} are drawn; darkprune report of a single folder draws the others.",
        class_="note",
    )


class Album:
    """Keeps the diagrams for the page and for the files beside it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def add(self, name: str, figure: Any, alt: str, caption: str | None = None) -> Element | None:
        """Takes a diagram.

        Args:
            name: of its files, without suffix.
            figure: matplotlib's; None leaves it out.
            alt: what it shows.
            caption: stands below it.
        """
        if figure is None:
            return None
        vector = plots.render(figure, "svg")
        self.files[f"{name}.svg"] = vector
        figure.set_layout_engine("none")  # what was arranged for the one serves the other: half of its time
        self.files[f"{name}.png"] = plots.render(figure, "png")
        inches = figure.get_figwidth()
        width = f"--wide:{inches * 92:.0f}px"
        kind = "plot scroll small" if inches <= SMALL else "plot scroll"
        return tag(
            "figure",
            tag("div", picture(vector, "svg+xml", alt, style=width), class_=kind, tabindex="0"),
            tag("figcaption", caption) if caption else None,
        )


@dataclass(frozen=True)
class Told:
    """Everything that is known of a run.

    Attributes:
        contents: what lies in its folder.
        networks: the original (where it was found) and what became of it; those that can be run.
        structure: the original's, with what it became.
        measured: what was measured for the report.
        album: takes diagrams.
    """

    contents: Contents
    networks: tuple[Network, ...]
    structure: Structure | None
    measured: Measured
    album: Album = field(default_factory=Album)

    @property
    def run(self) -> str:
        """The folder, as in a command."""
        return str(self.contents.folder)


def again(told: Told, flags: str) -> str:
    """Returns the command that makes the report anew with further flags."""
    return f"darkprune report {shlex.quote(told.run)} {flags} --overwrite"
