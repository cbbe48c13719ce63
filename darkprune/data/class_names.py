"""Names of classes: names files, and the names that belong to a network."""

from __future__ import annotations

from pathlib import Path

from darkprune.data.dataset import DataProblem
from darkprune.data.text_files import read_lines
from darkprune.errors import DataError
from darkprune.graph.graph import Graph
from darkprune.layers.heads import Head
from darkprune.settings import PathLike
from darkprune.zoo import folder

MAX_NAMES_BYTES = 16 << 20
#: classes of darkprune's own networks -> the file in `cfg/`
_OWN = {80: "coco.names", 20: "voc.names"}


def read_names(path: Path) -> tuple[tuple[str, ...], list[DataProblem]]:
    """Reads a names file: line i is the name of class i.

    Returns:
        The names, and problems of the file.

    Raises:
        DataError: it cannot be read or is empty.
    """
    lines = read_lines(path, MAX_NAMES_BYTES, "a names file")
    problems = []
    if any("\udc80" <= character <= "\udcff" for line in lines for character in line):
        problems.append(DataProblem(path, None, "is not UTF-8; it is read as Latin-1", "names"))
        lines = [line.encode("utf-8", "surrogateescape").decode("latin-1") for line in lines]
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        problems.append(DataProblem(path, len(names), "blank line at the end; darknet counts it as one class", "names"))
        names.pop()
    if not names:
        raise DataError(f"{path}: is empty; it has to hold one class name per line")
    problems += [
        DataProblem(path, number, "blank line: this class has no name", "names")
        for number, name in enumerate(names, start=1)
        if not name
    ]
    return tuple(names), problems


def names_file(graph: Graph) -> Path | None:
    """Finds the names that belong to a network: beside its cfg, or darkprune's own for its own networks."""
    cfg = Path(graph.cfg.source)
    beside = cfg.with_suffix(".names")
    if beside.is_file():
        return beside
    counts = {layer.kind.classes for layer in graph.heads if isinstance(layer.kind, Head)}
    if cfg.parent == folder("cfg") and len(counts) == 1 and counts <= set(_OWN):
        return cfg.with_name(_OWN[counts.pop()])
    return None


def class_names(given: PathLike | None, graph: Graph) -> tuple[str, ...]:
    """Returns the names in a given file, else those that belong to the network; nothing where there are none.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    path = Path(given) if given else names_file(graph)
    return read_names(path)[0] if path is not None else ()
