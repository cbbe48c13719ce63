"""A decision carried out for a trial: the slim pair in a temporary folder, to be measured and thrown away."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darkprune.graph.graph import Graph
from darkprune.graph.weights import NetworkWeights
from darkprune.selection.decide import Decision
from darkprune.surgery.apply import constants_of, write_slim
from darkprune.surgery.removed_units import original_of
from darkprune.surgery.replaced_channels import with_offsets
from darkprune.surgery.replay import prepare


@contextmanager
def slim_pair(weights: NetworkWeights, decision: Decision) -> Iterator[tuple[Graph, Path]]:
    """Writes the slim pair of a decision, and removes it when the block ends.

    Args:
        weights: the original pair; units that the decision cuts out may be missing already.
        decision: what to cut.

    Yields:
        The slim network and its weights file.
    """
    base = prepare(original_of(weights), decision.plan)
    with tempfile.TemporaryDirectory(prefix="darkprune-") as folder:
        path = Path(folder) / "slim.weights"
        with path.open("wb", buffering=0) as file:
            slim = write_slim(base, decision.cut, with_offsets(base, constants_of(base, decision.cut)), file)
        yield slim, path
