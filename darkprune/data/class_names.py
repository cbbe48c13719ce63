"""Names of classes: names files, and the names that belong to a network."""

from __future__ import annotations

from pathlib import Path

from darkprune.data.dataset import DataProblem
from darkprune.data.text_files import read_lines
from darkprune.errors import DataError
from darkprune.graph.classes import MAX_NAMES_BYTES, names_file
from darkprune.graph.graph import Graph
from darkprune.layers.heads import Head
from darkprune.settings import PathLike


def read_names(path: Path) -> tuple[tuple[str, ...], list[DataProblem]]:
    """Reads a names file: line i is the name of class i; returns the names, and problems of the file.

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


def class_names(given: PathLike | None, graph: Graph) -> tuple[str, ...]:
    """Returns the names in a given file, else those that belong to the network; nothing where there are none.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    path = Path(given) if given else names_file(graph)
    return read_names(path)[0] if path is not None else ()


def network_names(graph: Graph) -> Path | None:
    """Returns the names file that belongs to a network, if it names as many classes as the last head has.

    Raises:
        DataError: the file cannot be read or is empty.
    """
    path = names_file(graph)
    kind = graph.heads[-1].kind if graph.heads else None
    fits = path is not None and isinstance(kind, Head) and len(read_names(path)[0]) == kind.classes
    return path if fits else None
