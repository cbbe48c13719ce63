from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from tiny import DETECTOR, write_images, write_pair

from darkprune.data.samples import Samples, read_samples
from darkprune.graph.weights import NetworkWeights
from darkprune.network import loading


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps networks beside the tests' own tensors."""
    monkeypatch.setattr(loading, "default_device", lambda: torch.device("cpu"))


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[NetworkWeights]:
    with write_pair(tmp_path, DETECTOR) as pair:
        yield pair


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 32)


@pytest.fixture
def samples(weights: NetworkWeights, images: Path) -> Samples:
    return read_samples(images, weights.graph)
