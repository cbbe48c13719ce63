"""`darkprune info`: what is in a network."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.cli.console import add_json, add_pair, count, megabytes, print_result, print_table, print_totals
from darkprune.darknet.output import atomic_file
from darkprune.darknet.strict import StrictProblem, strict_problems
from darkprune.errors import OutputError
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.groups import PRESETS, divide
from darkprune.graph.stats import layer_detail, layer_json, totals
from darkprune.graph.weights import NetworkWeights, odd_weights
from darkprune.json_types import JsonObject
from darkprune.zoo import resolve

if TYPE_CHECKING:
    from darkprune.pages.structure import Structure


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser, weights_optional=True)
    parser.add_argument(
        "--against", metavar="SLIM", help="show beside it what it was cut to: a slim cfg or a plan.json"
    )
    drawing = parser.add_argument_group("as a page")
    drawing.add_argument("--html", metavar="F", help="draw the network: layers, groups, coupled sets, widths")
    drawing.add_argument(
        "--groups", default="auto", metavar="GROUPS", help=f"auto, {', '.join(PRESETS)}, or ranges 0-55,56-85,…"
    )
    drawing.add_argument("--overwrite", action="store_true", help="replace F if it exists")
    parser.add_argument("--strict", action="store_true", help="list what hank-ai's strict darknet would refuse")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints the network, and draws it where that is asked for."""
    graph = read_graph(resolve(args.cfg))
    slim_file = resolve(args.against) if args.against else None
    structure = _structure(graph, args.groups, slim_file) if args.html or slim_file else None
    header: JsonObject | None = None
    size = 20
    bad: list[str] = []
    if args.weights:
        with NetworkWeights(graph, resolve(args.weights, "weights")) as weights:
            head = weights.header
            size = head.size
            version = [head.major, head.minor, head.revision]
            header = {"version": version, "seen": head.seen, "bytes": weights.file.size}
            bad = odd_weights(weights)
    strict = strict_problems(graph.cfg) if args.strict else None
    if args.html and structure is not None:
        _draw(args, structure, slim_file)

    def show() -> None:
        if structure is not None and structure.slim is not None:
            _print_change(structure, structure.slim.graph)
        else:
            _print_layers(graph)
        _print(graph, header, size, strict)
        if args.html:
            print(f"drawn       {args.html}")

    data = {**_to_json(graph, header, size, strict), **_change_json(structure)}
    print_result(args, {**data, "html": args.html} if args.html else data, (*graph.warnings, *bad), show)
    return 0


def _structure(graph: Graph, groups: str, slim: Path | None) -> Structure:
    from darkprune.pages.structure import Structure, read_slim

    return Structure(graph, divide(graph, groups), read_slim(graph, slim) if slim else None)


def _draw(args: Namespace, structure: Structure, slim: Path | None) -> None:
    """Writes the page."""
    from darkprune.pages.markup import is_page
    from darkprune.pages.network_page import network_page

    inputs = [resolve(args.cfg), *([slim] if slim else [])]
    if args.weights:
        inputs.append(resolve(args.weights, "weights"))
    if Path(args.html).exists() and args.overwrite and not is_page(Path(args.html)):
        raise OutputError(f"{args.html}: is not an earlier page, which --overwrite would replace; name another file")
    page = network_page(structure)
    with atomic_file(Path(args.html), inputs, args.overwrite) as file:
        file.write(page)


def _change_json(structure: Structure | None) -> JsonObject:
    """Returns what a network became: per layer its description, null where it was cut out, and the totals."""
    if structure is None or structure.slim is None:
        return {}
    layers = [structure.after(layer) for layer in structure.graph]
    return {
        "against": {
            "layers": [None if layer is None else layer_json(layer) for layer in layers],
            **totals(structure.slim.graph).to_json(),
        }
    }


def _print_change(structure: Structure, slim: Graph) -> None:
    """Prints every layer before and after, and the totals."""
    rows = []
    for layer in structure.graph:
        after = structure.after(layer)
        pairs = (
            (str(layer.output.c), after and str(after.output.c)),
            (layer.params and count(layer.params), after and after.params and count(after.params)),
            (layer.macs and count(layer.macs), after and after.macs and count(after.macs)),
        )
        rows.append((layer.index, layer.name, *("" if cell in (None, 0) else cell for pair in pairs for cell in pair)))
    print_table(("layer", "kind", "channels", "after", "params", "after", "MACs", "after"), rows, left=2)
    print()
    print_totals(totals(structure.graph), totals(slim))
    print()


def _to_json(graph: Graph, header: JsonObject | None, size: int, strict: list[StrictProblem] | None) -> JsonObject:
    total = totals(graph, size)
    shape = graph.net.input
    data: JsonObject = {
        "cfg": graph.cfg.source,
        "input": [shape.c, shape.h, shape.w],
        "layers": [layer_json(layer) for layer in graph],
        "params": total.params,
        "trainable_params": total.trainable_params,
        "macs": total.macs,
        "bflops": total.bflops,
        "weights_bytes": total.bytes,
        "weights": header,
    }
    if strict is not None:
        data["strict"] = [asdict(problem) for problem in strict]
    return data


def _print_layers(graph: Graph) -> None:
    rows = []
    for layer in graph:
        reads = ",".join(map(str, layer.sources)) if layer.sources != (layer.index - 1,) else ""
        rows.append(
            (
                layer.index,
                "conv" if layer.name == "convolutional" else layer.name,  # 80 columns hold it so
                layer_detail(layer),
                reads,
                layer.output,
                count(layer.params) if layer.params else "",
                count(layer.macs) if layer.macs else "",
            )
        )
    print_table(("no.", "kind", "detail", "reads", "output", "params", "MACs"), rows, left=5)
    print()


def _print(graph: Graph, header: JsonObject | None, size: int, strict: list[StrictProblem] | None) -> None:
    """Prints the totals, and what the weights file says of itself."""
    total = totals(graph, size)
    print(f"{graph.cfg.source}: {len(graph)} layers, input {graph.net.input}")
    print(
        f"parameters  {count(total.params)} stored floats ({total.params:,}), {count(total.trainable_params)} trainable"
    )
    print(f"operations  {count(total.macs)} multiply-adds, {total.bflops:.3f} BFLOPs as darknet counts")
    print(f"weights     {megabytes(total.bytes)} ({total.bytes:,} bytes)")
    if header:
        version = ".".join(map(str, header["version"]))
        print(f"            format {version}, {header['seen']:,} images seen; size matches the cfg")
    if strict is not None:
        print(f"strict      {len(strict)} things that hank-ai's darknet would refuse")
        for problem in strict:
            print(f"            {problem}")
