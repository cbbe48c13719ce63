"""Where a network comes from: its files, its class names, its plan, the network that it was pruned from."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from darkprune.api.pair import Network, Pair
from darkprune.data.class_names import class_names
from darkprune.errors import DarkpruneError
from darkprune.graph.graph import Graph, read_graph, resized
from darkprune.runs.digests import digest_of_file
from darkprune.runs.json_file import read_json
from darkprune.settings import PathLike
from darkprune.surgery.plan_file import read_plan
from darkprune.surgery.surgery import Surgery


def files_of(network: Network) -> list[Path]:
    """Returns cfg and weights of a pair, or of the original of a surgery: files that no output may replace."""
    if isinstance(network, Pair):
        return [network.cfg, network.weights_file]
    return [Path(network.original.graph.cfg.source), network.original.path]


def names_of(network: Network, given: PathLike | None) -> tuple[str, ...]:
    """Returns the class names in a given file, else those that belong to the network; nothing where there are none."""
    graph = network.graph if isinstance(network, Pair) else network.original.graph
    return class_names(None if given is None else str(given), graph)


def plan_hash(network: Network) -> str:
    """Returns the hash of the plan that a network was pruned by; empty where it was not.

    A pair's plan lies beside it, unless the cfg is that of the plan's original.
    """
    if isinstance(network, Surgery):
        return sha256(network.plan.dumps().encode()).hexdigest()
    path = network.cfg.with_name("plan.json")
    if not path.is_file() or read_plan(path).cfg_sha256 == digest_of_file(network.cfg):
        return ""
    return digest_of_file(path)


def original_of(network: Network, size: str | None) -> Graph | None:
    """Returns the network before pruning, at some input size; None where it is not recorded or not found."""
    try:
        if isinstance(network, Surgery):
            return resized(network.original.graph, size)
        record = read_json(network.cfg.with_name("report.json"))["inputs"]["cfg"]
        path = network.cfg.parent / (record["path"].text or "")
        if path.is_file() and digest_of_file(path) == record["sha256"].text:
            return resized(read_graph(path), size)
    except DarkpruneError:
        pass
    return None
