"""Makes the referee importable from here, and keeps small networks on one thread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Waiting for other threads takes longer than these networks do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
