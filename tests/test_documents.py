"""Documents are true: every `darkprune …` line in them is read by the parser, and every link leads somewhere."""

from __future__ import annotations

import os
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


def test_the_table_of_sections_is_that_of_the_layers() -> None:
    pytest.importorskip("torch")
    script = ROOT / "tools" / "write_tables.py"
    done = subprocess.run([sys.executable, script, "--check"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, "python tools/write_tables.py writes it again"


def test_pictures_are_small_and_belong_to_the_project() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", text)
    assert pictures
    for description, path in pictures:
        assert len(description) > 10, "what a picture shows, for who does not see it"
        assert (ROOT / path).stat().st_size < 200_000


_FILES = [
    path
    for folder in ("darkprune", "tests", "tools", "docs", ".ci", ".github")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".css", ".toml", ".yml", ".json") and path != Path(__file__)
] + list(ROOT.glob("*.*"))


def test_nothing_cites_a_document_that_is_not_here() -> None:
    """Documents are named with their file, and the only ones are those of the project."""
    here = {path.name for path in DOCUMENTS}
    made = {"REFERENCE.md"}  # a page that mkdocs makes
    for path in _FILES:
        if path.suffix not in (".py", ".md", ".css", ".toml", ".yml", ".json"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(METHODS|DESIGN|DARKNET|ECOSYSTEM|PEERS)(\.md|,? §| §)", text), path
        named = set(re.findall(r"\b[A-Z]{2,}[A-Z_]*\.md\b", text))
        assert named <= here | made, f"{path}: {named - here}"


@pytest.mark.parametrize("question", ["nothing", "not faster", "darknet refuses", "TensorRT refuses", "Which method"])
def test_the_faq_answers(question: str) -> None:
    titles = re.findall(r"^### (.*)$", (ROOT / "docs" / "FAQ.md").read_text(encoding="utf-8"), re.M)
    assert any(question in title for title in titles)


@pytest.mark.slow
def test_quick_starts_work_as_written(tmp_path: Path) -> None:
    """The commands of the section, one after the other in one folder; the demo is made short."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Quick starts")[1].split("\n## ")[0]
    short = {"demo": ["--steps", "0"], "compress": ["--target-macs", "0.9", "--skip", "recover"]}
    assert "&& darkprune demo\n" in text.split("## Quick starts")[0]
    commands = [["demo"], *_commands(section)]
    assert {words[0] for words in commands} >= {"demo", "compress", "prune", "verify", "detect", "kit", "export"}
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "darkprune", *words, *short.get(words[0], [])],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr[-1000:]}"


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
