"""A strict reader of pages: what it takes is well-formed and loads nothing from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "hr"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}


class Page(HTMLParser):
    """Reads a page; raises AssertionError at the first thing that is wrong with it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: dict[str, int] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.tables: list[str] = []
        text = data.decode("utf-8")
        assert text.startswith("<!doctype html>")
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert len(set(self.ids)) == len(self.ids), "an id twice"
        assert {link[1:] for link in self.links if link.startswith("#")} <= set(self.ids)

    @classmethod
    def of(cls, path: Path) -> Page:
        return cls(path.read_bytes())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form"), tag
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in LOADING:
                assert value is not None
                assert value.startswith(("data:image/", "#")), value[:60]
                self.links.append(value)
            if name == "id":
                self.ids.append(value or "")
            if name == "style":
                assert "url(" not in (value or "")
        if tag == "img":
            assert dict(attrs).get("alt"), "an image without a text for who does not see it"
        if tag == "table":
            self.tables.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
        elif data.strip():
            self.texts.append(data.strip())
            if "table" in self.open:
                self.tables[-1] += f"{data.strip()}|"

    @property
    def text(self) -> str:
        return "\n".join(self.texts)
