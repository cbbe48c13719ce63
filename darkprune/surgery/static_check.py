"""What the files of a slim pair show without running it: texts, shapes, headers, hashes."""

from __future__ import annotations

from pathlib import Path

from darkprune.darknet.cfg import Cfg
from darkprune.errors import DarkpruneError
from darkprune.graph.graph import Graph
from darkprune.graph.weights import TensorSource, non_finite_tensors
from darkprune.runs.digests import digest_of_file
from darkprune.runs.json_file import read_json
from darkprune.surgery.apply import Cut, slim_cfg

#: keys of a cfg that a cut may change
WIDTH_KEYS = frozenset({"filters", "groups", "output", "out_channels"})


def static_problems(
    original: TensorSource, slim: TensorSource, cut: Cut | None, report: Path | None = None
) -> list[str]:
    """Compares two pairs as files.

    Args:
        original: what the cut applies to (`Surgery.base`).
        slim: the pair after.
        cut: what the plan says; without it only widths may differ.
        report: the report beside the slim pair, for its hashes.

    Returns:
        What is wrong; empty if nothing.
    """
    problems = _shape_problems(original.graph, slim.graph)
    if cut is not None:
        problems += _text_problems(slim_cfg(cut), slim.graph.cfg)
    else:
        problems += _unexplained_changes(original.graph.cfg, slim.graph.cfg)
    problems += non_finite_tensors(slim)
    if (original.header.seen, original.header.minor) != (slim.header.seen, slim.header.minor):
        problems.append("the header of the slim weights differs from the original's")
    if report is not None:
        problems += _hash_problems(report, slim)
    return problems


def output_layers(graph: Graph) -> tuple[int, ...]:
    """Returns the layers whose values are the network's answer: what feeds its heads, else its outputs."""
    feeding = [head.sources[0] for head in graph.heads if head.sources[0] >= 0]
    return tuple(dict.fromkeys(feeding)) or graph.outputs


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
