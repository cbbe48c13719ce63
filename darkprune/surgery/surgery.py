"""A surgery: the original network, the plan, and the cut that follows from it, which belong together."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.darknet.output import result_folder
from darkprune.graph.classes import names_to_copy
from darkprune.graph.graph import Graph
from darkprune.graph.stats import Totals, totals
from darkprune.graph.weights import NetworkWeights, TensorSource
from darkprune.json_types import JsonMapping
from darkprune.progress import Progress, reporting, silent
from darkprune.settings import PathLike
from darkprune.surgery.apply import Constants, Cut, constants_of, write_slim
from darkprune.surgery.factors.network import with_factors
from darkprune.surgery.plan import Plan
from darkprune.surgery.removed_units import reduced
from darkprune.surgery.replaced_channels import with_offsets, with_similar

if TYPE_CHECKING:
    from darkprune.surgery.result import PruneResult


class ScratchFile:
    """A file in a temporary folder, which is removed together with the object.

    Attributes:
        path: where the file lies, or will.
    """

    def __init__(self, name: str) -> None:
        folder = TemporaryFolder()
        self.path = folder.path / name
        self.close = folder.cleanup


@dataclass(frozen=True, kw_only=True)
class Surgery:
    """A decision about a pair, ready to be carried out: nothing is written before `save`.

    Attributes:
        original: the pair before, open.
        plan: the decision as a reviewable document.
        cut: the same, in terms of channel classes; it applies to `base`.
        warnings: what the user should know before going on.
        findings: what was measured for the decision and of its result, by the names that report.json gives them.
        recovered: the slim weights after a repair; None where they are those of the cut.
        result: what was written, once the surgery is saved.
    """

    original: NetworkWeights
    plan: Plan
    cut: Cut
    warnings: tuple[str, ...] = ()
    findings: JsonMapping = field(default_factory=dict)
    recovered: ScratchFile | None = None
    result: PruneResult | None = None

    def with_hashes(self, cfg: str, weights: str) -> Surgery:
        """Returns the surgery with the hashes of its pair in the plan."""
        return replace(self, plan=self.plan.with_hashes(cfg, weights))

    @cached_property
    def reduced(self) -> TensorSource:
        """The original without the units that are cut out."""
        return reduced(self.original, self.plan.units, self.cut.channels.graph)

    @cached_property
    def factorised(self) -> TensorSource:
        """`reduced`, with the convolutions as products that the plan writes so."""
        return with_factors(self.reduced, self.plan.factors, self.cut.channels.graph)

    @cached_property
    def base(self) -> TensorSource:
        """What the cut applies to: `factorised`, with the new weights where channels replace others."""
        return with_similar(self.factorised, self.plan.similar)

    @property
    def graph(self) -> Graph:
        """The slim network."""
        return self.cut.slim

    @property
    def before(self) -> Totals:
        """Size and cost of the original."""
        return totals(self.original.graph, self.original.header.size)

    @property
    def after(self) -> Totals:
        """Size and cost of the slim network."""
        return totals(self.graph, self.original.header.size)

    @cached_property
    def constants(self) -> Constants:
        """What stands in for the content that goes, at every layer's output."""
        return with_offsets(constants_of(self.base, self.cut), self.plan.similar)

    def write_weights(self, file: BinaryIO) -> None:
        """Writes the slim network's weights.

        Args:
            file: empty, open for writing in binary.
        """
        if self.recovered is None:
            write_slim(self.base, self.cut, self.constants, file)
        else:
            with self.recovered.path.open("rb") as source:
                shutil.copyfileobj(source, file)

    @contextmanager
    def temporary_weights(self) -> Iterator[Path]:
        """Gives the slim weights as a file, which is gone when the block ends."""
        with TemporaryFolder() as folder:
            path = Path(folder) / "slim.weights"
            with path.open("wb", buffering=0) as file, reporting(silent):
                self.write_weights(file)
            yield path

    def save(
        self,
        folder: PathLike,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> PruneResult:
        """Writes the slim pair, plan.json, report.json, and the names that lie beside the original, into a folder.

        Args:
            folder: of the result, made whole or not at all.
            overwrite: replace an earlier result.
            progress: gets an event per layer.

        Raises:
            OutputError: the folder exists, or cannot be written.
        """
        names = names_to_copy(self.original.graph)
        with reporting(progress):
            saved = self.saved(Path(folder), overwrite=overwrite, class_names=names)
        assert saved.result is not None
        return saved.result

    def saved(
        self,
        folder: Path,
        *,
        overwrite: bool,
        inputs: Sequence[Path] = (),
        hashes: Callable[[], tuple[str, str]] | None = None,
        class_names: bytes | None = None,
    ) -> Surgery:
        """Writes the result into a folder, and returns the surgery with it.

        Args:
            folder: made whole or not at all.
            inputs: files that the folder must not hold, besides the original's.
            hashes: gives the SHA-256 of the original cfg and weights, where they are known already.
            class_names: the contents of the `.names` file to put beside the result.

        Raises:
            OutputError: the folder exists, holds an input, or cannot be written.
        """
        from darkprune.surgery.result import write_result

        read = [Path(self.original.graph.cfg.source), self.original.path, *inputs]
        with result_folder(folder, read, overwrite) as filled:
            surgery, result = write_result(self, filled, hashes=hashes, class_names=class_names)
        return replace(surgery, result=result.moved(folder))

    def close(self) -> None:
        """Closes the original's weights file, and removes recovered weights that were not saved."""
        self.original.close()
        if self.recovered is not None:
            self.recovered.close()
