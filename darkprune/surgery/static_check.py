"""What the files of a slim pair show without running it: texts, shapes, headers, hashes."""

from __future__ import annotations

from pathlib import Path

from darkprune.darknet.cfg import Cfg
from darkprune.errors import DarkpruneError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import TensorSource, broken_tensors
from darkprune.runs.digests import digest_of_file
from darkprune.runs.json_file import read_json
from darkprune.surgery.apply import Cut, slim_cfg

#: keys of a cfg that a cut may change
WIDTH_KEYS = frozenset({"filters", "groups", "output", "out_channels"})


def static_problems(
    original: TensorSource, slim: TensorSource, cut: Cut | None, report: Path | None, *, trained: bool
) -> list[str]:
    """Compares two pairs as files.

    Args:
        original: what the cut applies to (`Surgery.base`).
        slim: the pair after.
        cut: what the plan says; without it only widths may differ.
        report: the report beside the slim pair, for its hashes.
        trained: the slim weights were trained since: input size, training keys and the count of images may differ.

    Returns:
        What is wrong; empty if nothing.
    """
    problems = _shape_problems(original.graph, slim.graph)
    if cut is None:
        problems += _unexplained_changes(original.graph.cfg, slim.graph.cfg)
    elif trained:
        problems = _wiring_problems(cut.slim, slim.graph)
    else:
        problems += _text_problems(slim_cfg(cut), slim.graph.cfg)
    problems += broken_tensors(slim)
    if not trained and (original.header.seen, original.header.minor) != (slim.header.seen, slim.header.minor):
        problems.append("the header of the slim weights differs from the original's")
    if report is not None:
        problems += _hash_problems(report, slim)
    return problems


def output_layers(graph: Graph) -> tuple[int, ...]:
    """Returns the layers whose maps are the network's answer: what feeds its heads, else its outputs.

    For an output without a map ([softmax] of a classifier) it is the map that it is made of.
    """
    feeding = [head.sources[0] for head in graph.heads if head.sources[0] >= 0]
    return tuple(dict.fromkeys(feeding or [_map_of(graph, index) for index in graph.outputs]))


def _map_of(graph: Graph, index: int) -> int:
    while not graph[index].output.is_map and graph[index].sources and graph[index].sources[0] >= 0:
        index = graph[index].sources[0]
    return index


def _shape_problems(original: Graph, slim: Graph) -> list[str]:
    if [layer.name for layer in original] != [layer.name for layer in slim]:
        return [f"the layers differ: {len(original)} before, {len(slim)} after, or of other kinds"]
    problems = []
    for before, after in zip(original, slim, strict=True):
        same_map = (before.output.h, before.output.w) == (after.output.h, after.output.w)
        is_output = before.index in output_layers(original)
        if not same_map or (is_output and before.output != after.output):
            problems.append(f"layer {before.index} ({before.name}) gives {after.output} instead of {before.output}")
    return problems


def _wiring_problems(expected: Graph, found: Graph) -> list[str]:
    """Lists the layers that are not what the plan makes of the original; the input size does not count."""
    if len(expected) != len(found):
        return [f"the layers differ: {len(found)} instead of {len(expected)}"]
    return [
        f"layer {have.index} ({have.name}): is not what the plan makes of the original"
        for want, have in zip(expected, found, strict=True)
        if (want.kind, want.sources) != (have.kind, have.sources)
    ]


def _text_problems(expected: Cfg, found: Cfg) -> list[str]:
    if str(expected) == str(found):
        return []
    pairs = enumerate(zip(expected.lines, found.lines, strict=False), start=1)
    first = next((number for number, (a, b) in pairs if a != b), None)
    where = f"line {first}" if first else f"its length: {len(found.lines)} lines instead of {len(expected.lines)}"
    return [f"{found.source}: differs at {where} from what the plan makes of the original"]


def _unexplained_changes(original: Cfg, slim: Cfg) -> list[str]:
    """Lists the values that differ though a cut changes no such key."""
    problems = []
    for before, after in zip(original.sections, slim.sections, strict=False):
        if before.name != after.name:
            return [f"line {after.line}: [{after.name}] instead of [{before.name}]"]
        values = [{o.key: o.value for o in reversed(section.options)} for section in (before, after)]
        for key in sorted(values[0].keys() | values[1].keys()):
            if values[0].get(key) != values[1].get(key) and key not in WIDTH_KEYS:
                problems.append(
                    f"line {after.line}: [{after.name}] {key} is {values[1].get(key)}, was {values[0].get(key)}"
                )
    return problems


def _hash_problems(report: Path, slim: TensorSource) -> list[str]:
    try:
        outputs = read_json(report, "a report")["outputs"]
    except DarkpruneError as error:
        return [str(error)]
    paths = {"cfg": Path(slim.graph.cfg.source), "weights": slim.path}
    wanted = {kind: outputs[kind]["sha256"].text for kind in paths}
    if not all(wanted.values()):
        return [f"{report}: is not a report of darkprune prune"]
    return [
        f"{path}: is not the file that the report beside it describes (changed since?)"
        for kind, path in paths.items()
        if digest_of_file(path) != wanted[kind]
    ]
