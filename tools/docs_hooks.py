"""Hooks of mkdocs: pages from the files at the top of the project, and the reference of the public names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from darkprune.settings import declared

ROOT = Path(__file__).parents[1]
#: page -> the file that it is
TOP = {"index.md": "README.md", **{name: name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")}}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not lie in docs/."""
    for page, name in TOP.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_without_files(text)))
    files.append(File.generated(config, "REFERENCE.md", content="\n".join(_reference())))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Makes links from docs/ to the top of the project links between pages."""
    return markdown.replace("](../README.md", "](index.md").replace("](../", "](")


def _without_files(text: str) -> str:
    """Leaves out links to files that are no pages."""
    return re.sub(r"\[([^\]]*)\]\((?:tests|cfg|weights|tools|LICENSE)[^)]*\)", r"\1", text)


def _reference() -> Iterator[str]:
    """Yields the reference page: an entry per public name, by module."""
    import darkprune

    yield "# Reference\n"
    homes: dict[str, list[str]] = {}
    for name in darkprune.__all__:
        homes.setdefault(darkprune._HOME[name], []).append(name)
    for module in sorted(homes):
        names = sorted(homes[module], key=lambda name: (name[0].isupper(), name))
        yield f"\n## {names[0]}\n"
        for name in names:
            yield f"\n::: {module}.{name}\n"
            if name.endswith("Settings"):
                yield from _fields(getattr(darkprune, name))


def _fields(kind: type[Any]) -> Iterator[str]:
    """Yields a table of a settings class: what `--help` says of each flag."""
    yield "| field | default | |\n|---|---|---|"
    for name, field in declared(kind).items():
        default = field.setting.default_text or ("" if field.default in (None, (), "") else repr(field.default))
        choices = f" ({', '.join(field.choices)})" if field.choices else ""
        cells = (f"`{name}`", default, field.setting.help + choices)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
