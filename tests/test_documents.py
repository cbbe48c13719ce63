"""Documents are true: every `darkprune …` line in them is read by the parser, and every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import darkprune as dp
from darkprune.cli.main import COMMANDS, build_parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "weights").glob("*.md")])
_BLOCK = re.compile(r"^```\w*\n(.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#([^)]*))?\)")


def _commands(text: str) -> Iterator[list[str]]:
    """Yields the arguments of every darkprune command in the code blocks of a document."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|\|| > ", line):
                words = shlex.split(part, comments=True)
                if words[:1] == ["darkprune"] and "…" not in part:
                    yield words[1:]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_are_understood(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in _commands(path.read_text(encoding="utf-8")):
        try:
            args = build_parser(words[0]).parse_args(words)
        except SystemExit:
            pytest.fail(f"darkprune {shlex.join(words)}: {capsys.readouterr().err[-300:]}")
        assert args.command == words[0]


def test_every_command_stands_in_the_readme() -> None:
    named = {words[0] for words in _commands((ROOT / "README.md").read_text(encoding="utf-8"))}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert name in named or f"darkprune {name}" in text, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in _LINK.findall(path.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        found = path.parent / target
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


@pytest.mark.slow
def test_pages_build(tmp_path: Path) -> None:
    """Every page is in the navigation, every link between pages leads somewhere, every public name has an entry."""
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reference = (tmp_path / "site" / "REFERENCE" / "index.html").read_text(encoding="utf-8")
    for name in dp.__all__:
        assert re.search(rf'id="darkprune\.[\w.]*\.{name}"', reference), name
    assert "<code>min_channels</code>" in reference
