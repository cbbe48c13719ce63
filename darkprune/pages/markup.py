"""HTML and SVG as trees of the standard library, so that they are well-formed and escaped by construction.

Class names, file names and cfg text may come from anybody. They only enter as text or attribute values of a tree,
which the serialiser escapes; nothing is pasted into markup.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias
from xml.etree.ElementTree import Element, tostring

from darkprune import __version__

Node: TypeAlias = "Element | str | int | float | Iterable[Node] | None"
MOST_TEXT = 4000  #: characters of one piece of text
_START = b"<!doctype html>\n"
#: the page loads and runs nothing, whatever is in the files that it shows
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def tag(name: str, /, *children: Node, **attributes: str | float | bool | None) -> Element:
    """Makes an element.

    Args:
        name: of the element.
        children: elements, text, numbers, nested lists of these; None is nothing.
        attributes: `class_` is class, `stroke_width` stroke-width; True is a bare attribute, None and False are left
            out. Floats are written with at most two decimals, which is enough for drawings.
    """
    element = Element(name)
    for key, value in attributes.items():
        if value is not None and value is not False:
            element.set(key.rstrip("_").replace("_", "-"), key if value is True else _value(value))
    _append(element, children)
    return element


def _value(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def clean(text: str) -> str:
    """Replaces control characters, and cuts text that is too long."""
    shown = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text[:MOST_TEXT])
    return f"{shown}…" if len(text) > MOST_TEXT else shown


def _append(element: Element, children: Iterable[Node]) -> None:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            element.append(child)
        elif isinstance(child, str | int | float):
            text = clean(str(child))
            if len(element):
                element[-1].tail = (element[-1].tail or "") + text
            else:
                element.text = (element.text or "") + text
        else:
            _append(element, child)


def table(
    head: Sequence[Node], rows: Iterable[Sequence[Node]], left: int = 1, *, caption: str | None = None
) -> Element:
    """Makes a table in a box that scrolls by itself; the first `left` columns are text, the others numbers."""

    def line(kind: str, cells: Sequence[Node]) -> Element:
        return tag("tr", [tag(kind, cell, class_=None if n < left else "n") for n, cell in enumerate(cells)])

    whole = tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", line("th", head)),
        tag("tbody", [line("td", row) for row in rows]),
    )
    return tag("div", whole, class_="scroll", tabindex="0")


def picture(data: bytes, kind: str, alt: str, **attributes: str | float | bool | None) -> Element:
    """Embeds an image file of a kind (`png`, `jpeg` or `svg+xml`); `alt` says what it shows."""
    return tag("img", src=f"data:image/{kind};base64,{b64encode(data).decode()}", alt=alt, **attributes)


def document(title: str, *body: Node) -> bytes:
    """Makes a whole page: one file, which loads and runs nothing."""
    style = tag("style")
    style.text = files("darkprune.pages").joinpath("style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="generator", content=f"darkprune {__version__}"),
        tag("title", title),
        style,
    )
    page = tag("html", head, tag("body", body), lang="en")
    return _START + tostring(page, encoding="unicode", method="html").encode("utf-8", "replace") + b"\n"


def is_page(path: Path) -> bool:
    """Returns whether a file is an HTML page as `document` makes them."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_START)) == _START
