"""`init`: fresh weights for a cfg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from darkprune.api.pair import Pair
from darkprune.darknet.output import atomic_file
from darkprune.errors import UsageError
from darkprune.graph.classes import with_classes
from darkprune.graph.fresh import write_fresh
from darkprune.json_types import JsonObject
from darkprune.runs.digests import plain
from darkprune.settings import PathLike, Settings, setting


@dataclass(frozen=True, kw_only=True)
class InitSettings(Settings):
    """How fresh weights are drawn."""

    seed: int = setting(0, "of the random generator", at_least=0)
    classes: int | None = setting(
        None, "rewrite the heads for N classes; the cfg is written beside the weights", at_least=1
    )
    vary: bool = setting(False, "draw γ, β, μ, σ² around 1, 0, 0, 1 as in a trained network")
    overwrite: bool = setting(False, "replace an existing file")


@dataclass(frozen=True)
class InitResult:
    """A weights file that was written.

    Attributes:
        weights: its path.
        bytes: its size.
        params: floats in it.
        seed: of the random generator.
        cfg: the cfg that was written beside it, for another number of classes.
        warnings: what is odd about the cfg.
    """

    weights: Path
    bytes: int
    params: int
    seed: int
    cfg: Path | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """Returns the fields as JSON values."""
        return plain(self)


def init(pair: Pair, output: PathLike, settings: InitSettings | None = None) -> InitResult:
    """Writes fresh weights for a cfg.

    Args:
        pair: the network; its own weights, if any, are not read.
        output: the .weights file to write.
        settings: how; by default seed 0 as darknet draws them.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    settings = settings or InitSettings()
    path, cfg = Path(output), None
    graph = with_classes(pair.graph, settings.classes)
    if settings.classes is not None and path.suffix == ".cfg":
        raise UsageError(f"-o {path}: name the .weights file; the cfg is written beside it")
    with atomic_file(path, [pair.cfg], settings.overwrite) as file:
        size = write_fresh(graph, file, settings.seed, settings.vary)
        if settings.classes is not None:
            cfg = path.with_suffix(".cfg")
            with atomic_file(cfg, [pair.cfg], settings.overwrite) as text:
                text.write(graph.cfg.encode())
    return InitResult(path, size, graph.params, settings.seed, cfg, tuple(graph.warnings))
