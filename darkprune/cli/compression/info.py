"""`darkprune info`: what is in a network."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from darkprune.cli.console import add_json, add_pair, count, megabytes, print_json, print_table, warn
from darkprune.darknet.output import atomic_file
from darkprune.errors import OutputError, UsageError
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.groups import PRESETS, divide
from darkprune.graph.stats import layer_detail, layer_json, totals
from darkprune.graph.weights import NetworkWeights, odd_weights
from darkprune.json_types import JsonObject
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser, weights_optional=True)
    drawing = parser.add_argument_group("as a page")
    drawing.add_argument("--html", metavar="F", help="draw the network: layers, groups, coupled sets, widths")
    drawing.add_argument("--against", metavar="SLIM", help="what it was cut to: the slim cfg or the plan.json")
    drawing.add_argument("--groups", default="auto", help=f"auto, {', '.join(PRESETS)}, or ranges 0-55,56-85,…")
    drawing.add_argument("--overwrite", action="store_true", help="replace F if it exists")
    parser.add_argument("--strict", action="store_true", help="list what hank-ai's strict darknet would refuse")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints the network, and draws it where that is asked for."""
    if args.against and not args.html:
        raise UsageError("--against is drawn beside the network: give --html F as well")
    graph = read_graph(resolve(args.cfg))
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
    strict = _strict(graph) if args.strict else None
    if args.html:
        _draw(args, graph)
    if args.json:
        drawn = {"html": args.html} if args.html else {}
        print_json({**_to_json(graph, header, size, bad, strict), **drawn})
    else:
        _print(graph, header, size, strict)
        if args.html:
            print(f"drawn       {args.html}")
    for message in (*graph.warnings, *bad):
        warn(message)
    return 0


def _draw(args: Namespace, graph: Graph) -> None:
    """Writes the page."""
    from darkprune.pages.markup import is_page
    from darkprune.pages.network_page import network_page
    from darkprune.pages.structure import Structure, read_slim

    slim_file = resolve(args.against) if args.against else None
    slim = read_slim(graph, slim_file) if slim_file else None
    inputs = [resolve(args.cfg), *([slim_file] if slim_file else [])]
    if args.weights:
        inputs.append(resolve(args.weights, "weights"))
    if Path(args.html).exists() and args.overwrite and not is_page(Path(args.html)):
        raise OutputError(f"{args.html}: is not an earlier page, which --overwrite would replace; name another file")
    page = network_page(Structure(graph, divide(graph, args.groups), slim))
    with atomic_file(Path(args.html), inputs, args.overwrite) as file:
        file.write(page)


def _strict(graph: Graph) -> list[JsonObject]:
    from darkprune.darknet.strict import strict_problems

    return [
        {"line": problem.line, "section": problem.section, "message": problem.message}
        for problem in strict_problems(graph.cfg)
    ]


def _to_json(
    graph: Graph, header: JsonObject | None, size: int, bad: list[str], strict: list[JsonObject] | None
) -> JsonObject:
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
        "warnings": [*graph.warnings, *bad],
    }
    if strict is not None:
        data["strict"] = strict
    return data


def _print(graph: Graph, header: JsonObject | None, size: int, strict: list[JsonObject] | None) -> None:
    rows = []
    for layer in graph:
        reads = ",".join(map(str, layer.sources)) if layer.sources != (layer.index - 1,) else ""
        rows.append(
            (
                layer.index,
                layer.name,
                layer_detail(layer),
                reads,
                layer.output,
                count(layer.params) if layer.params else "",
                count(layer.macs) if layer.macs else "",
                f"{layer.bflops:.3f}" if layer.bflops else "",
            )
        )
    print_table(("layer", "kind", "detail", "reads", "output", "params", "MACs", "BFLOPs"), rows, left=5)
    total = totals(graph, size)
    print()
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
            print(f"            line {problem['line']} [{problem['section']}]: {problem['message']}")
