"""`darkprune info`: what is in a network."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from darkprune.commands.console import add_json, add_pair, count, megabytes, print_json, print_table, warn
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.stats import layer_json, totals
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.convolution import Convolutional
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser, weights_optional=True)
    parser.add_argument("--strict", action="store_true", help="list what hank-ai's strict darknet would refuse")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints the network."""
    graph = read_graph(resolve(args.cfg))
    header: dict[str, Any] | None = None
    size = 20
    bad: list[str] = []
    if args.weights:
        with NetworkWeights(graph, resolve(args.weights, "weights")) as weights:
            head = weights.file.header
            size = head.size
            version = [head.major, head.minor, head.revision]
            header = {"version": version, "seen": head.seen, "bytes": weights.file.size}
            bad = weights.non_finite()
    strict = _strict(graph) if args.strict else None
    if args.json:
        print_json(_to_json(graph, header, size, bad, strict))
    else:
        _print(graph, header, size, strict)
    for message in (*graph.warnings, *bad):
        warn(message)
    return 0


def _strict(graph: Graph) -> list[dict[str, Any]]:
    from darkprune.darknet.strict import strict_problems

    return [
        {"line": problem.line, "section": problem.section, "message": problem.message}
        for problem in strict_problems(graph.cfg)
    ]


def _to_json(
    graph: Graph, header: dict[str, Any] | None, size: int, bad: list[str], strict: list[dict[str, Any]] | None
) -> dict[str, Any]:
    total = totals(graph, size)
    shape = graph.net.input
    data: dict[str, Any] = {
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


def _print(graph: Graph, header: dict[str, Any] | None, size: int, strict: list[dict[str, Any]] | None) -> None:
    rows = []
    for layer in graph:
        reads = ",".join(map(str, layer.sources)) if layer.sources != (layer.index - 1,) else ""
        rows.append(
            (
                layer.index,
                layer.name,
                _detail(layer.kind),
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


def _detail(kind: object) -> str:
    if not isinstance(kind, Convolutional):
        return ""
    g = kind.geometry
    stride = f"/{g.stride_x}" if g.stride_x == g.stride_y else f"/{g.stride_x}x{g.stride_y}"
    groups = f" g{g.groups}" if g.groups > 1 else ""
    return f"{g.size}x{g.size}{stride}{groups} {kind.activation}{' bn' if kind.batch_normalize else ''}"
