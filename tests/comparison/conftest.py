"""A tiny network and a set whose two splits share no image."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkprune.darknet.weights import Header
from darkprune.graph.graph import read_graph
from darkprune.network import save_weights
from tests.training.tiny import CFG, fresh_network, write_images


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set whose two splits share no image."""
    found = write_images(tmp_path / "data", 16)
    paths = (tmp_path / "data" / "train.txt").read_text().split()
    (tmp_path / "data" / "train.txt").write_text("\n".join(paths[6:]) + "\n")
    (tmp_path / "data" / "valid.txt").write_text("\n".join(paths[:6]) + "\n")
    return found


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """The tiny network, wide enough that a budget can be met, at a size below which there is another."""
    text = CFG.replace("=32\n", "=64\n")
    for few, many in (("filters=12", "filters=48"), ("filters=10", "filters=40"), ("filters=16", "filters=64")):
        text = text.replace(few, many)
    (tmp_path / "net.cfg").write_text(text)
    with (tmp_path / "net.weights").open("wb") as file:
        save_weights(fresh_network(read_graph(tmp_path / "net.cfg")), file, Header())
    return [str(tmp_path / "net.cfg"), str(tmp_path / "net.weights")]
