"""What the tests of several rooms need."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import build_graph
from tests.assets import ABSENT

# .ci/run asks for the same examples every time; elsewhere hypothesis goes on looking
settings.register_profile("reproducible", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("reproducible")

_CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation={}\n\n"
#: a detector with a shortcut, a slice and two heads, which OpenCV reads too
SMALL_CFG = (
    "[net]\n# a comment\nbatch=8\nsubdivisions=2\nwidth = 64\nheight=32\nchannels=3\n\n"
    + _CONV.format(16, 2, "leaky")
    + _CONV.format(24, 1, "mish")
    + _CONV.format(16, 1, "linear")
    + "[shortcut]\nfrom=-3\nactivation=linear\n\n"
    + "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n\n"
    + _CONV.format(32, 2, "leaky")
    + "[convolutional]\nsize=1\nstride=1\npad=1\nfilters=14\nactivation=linear\n\n"
    + "[yolo]\nmask=0,1\nanchors=10,14, 30,30, 60,50, 90,90\nclasses=2\nnum=4\n\n"
    + "[route]\nlayers=-3\n\n[upsample]\nstride=2\n\n[route]\nlayers=-1,3\n\n"
    + _CONV.format(20, 1, "leaky")
    + "[convolutional]\nsize=1\nstride=1\npad=1\nfilters=14\nactivation=linear\n\n"
    + "[yolo]\nmask=2,3\nanchors=10,14, 30,30, 60,50, 90,90\nclasses=2\nnum=4"
)


@dataclass(frozen=True)
class SmallPair:
    """A small detector on disk.

    Attributes:
        folder: an otherwise empty folder.
        cfg, weights: the files in it.
    """

    folder: Path
    cfg: str
    weights: str


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out fsync: on a busy disk it takes most of the time of a test that writes."""
    monkeypatch.setattr(os, "fsync", lambda number: None)


@pytest.fixture
def small_pair(tmp_path: Path) -> SmallPair:
    """A small detector with weights as of a trained network."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "small.cfg").write_text(SMALL_CFG, encoding="utf-8")
    with (folder / "small.weights").open("wb") as file:
        write_fresh(build_graph(parse_cfg(SMALL_CFG)), file, 0, vary=True)
    return SmallPair(folder, str(folder / "small.cfg"), str(folder / "small.weights"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says once, at the end, why tests were skipped for want of real networks."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(ABSENT in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} tests skipped: {ABSENT}")
