"""`darkprune bench`: how fast a pair runs, and what pruning gained."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import numpy as np

from darkprune.cli.console import add_json, add_pair, count, print_json, print_table, progress, warn
from darkprune.cli.eval import resized
from darkprune.errors import GraphError
from darkprune.graph.graph import Graph, Layer, read_graph
from darkprune.layers.convolution import Convolutional
from darkprune.runners.base import FAST_FIRST, RUNNERS, LoadedNetwork, load_with_any
from darkprune.runners.timing import Latency, time_alternately, yield_of_saving
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument("--against", nargs=2, metavar=("CFG", "WEIGHTS"), help="a second pair, timed in turn with it")
    parser.add_argument("--runner", choices=tuple(RUNNERS), help="program to run the networks in")
    parser.add_argument("--batch", type=int, default=1, help="images per run (default 1)")
    parser.add_argument("--size", metavar="WxH", help="another input size than the cfg's")
    parser.add_argument("--runs", type=int, default=50, help="timed runs (default 50)")
    parser.add_argument("--warmup", type=int, default=5, help="runs before (default 5)")
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="slowest layers to show (default 12)")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints latencies."""
    pairs = [(args.cfg, args.weights), *([tuple(args.against)] if args.against else [])]
    graphs = [resized(read_graph(resolve(cfg)), args.size) for cfg, _ in pairs]
    runner = args.runner
    networks: list[LoadedNetwork] = []
    for graph, (_, weights) in zip(graphs, pairs, strict=True):
        if not graph.net.input.is_map or not graph.heads:
            raise GraphError(
                f"{graph.cfg.source}: reads no image or has no detection head, so there is nothing to time"
            )
        runner, network = load_with_any(graph, resolve(weights, "weights"), runner, taps=False, order=FAST_FIRST)
        networks.append(network)
    random = np.random.default_rng(0)
    shapes = [graph.net.input for graph in graphs]
    images = [random.random((max(1, args.batch), s.c, s.h, s.w), np.float32) for s in shapes]
    runs, warmup = max(1, args.runs), max(0, args.warmup)
    with progress((runs + warmup) * len(networks), "timing", "run") as bar:
        seconds = time_alternately(networks, images, runs, warmup, bar.update)
    figures = [Latency.of(times, max(1, args.batch), graph.macs) for times, graph in zip(seconds, graphs, strict=True)]
    gain = _gain(figures, graphs, seconds)
    tables = [network.layer_times(batch[:1]) for network, batch in zip(networks, images, strict=True)]
    if args.json:
        print_json(_to_json(pairs, str(runner), figures, graphs, gain, tables))
    else:
        _print(pairs, str(runner), figures, graphs, gain)
        _print_layers(graphs, tables, args.layers)
    return 0


def _gain(figures: list[Latency], graphs: list[Graph], seconds: list[list[float]]) -> dict[str, Any] | None:
    """Compares the first pair with the second: which of them is the pruned one follows from the operations."""
    if len(figures) < 2:
        return None
    pair = list(zip(figures, graphs, seconds, strict=True))
    (before, big, slow), (after, small, fast) = sorted(pair, key=lambda entry: -entry[1].macs)
    ratios = np.array(slow) / np.array(fast)
    return {
        "speed_up": round(float(np.median(ratios)), 4),
        "operations_saved": round(1 - small.macs / big.macs, 4),
        "time_saved": round(1 - after.median / before.median, 4),
        "yield": yield_of_saving(before.median, after.median, big.macs, small.macs),
    }


def _to_json(
    pairs: list[Any],
    runner: str,
    figures: list[Latency],
    graphs: list[Graph],
    gain: dict[str, Any] | None,
    tables: list[dict[int, float] | None],
) -> dict[str, Any]:
    networks = [
        {
            "cfg": str(cfg),
            "weights": str(weights),
            "macs": graph.macs,
            **latency.to_json(),
            "layers_ms": None if table is None else {str(index): round(ms, 4) for index, ms in table.items()},
        }
        for (cfg, weights), latency, graph, table in zip(pairs, figures, graphs, tables, strict=True)
    ]
    return {"runner": runner, "networks": networks, "gain": gain}


def _print(
    pairs: list[Any], runner: str, figures: list[Latency], graphs: list[Graph], gain: dict[str, Any] | None
) -> None:
    rows = [
        (
            cfg,
            graph.net.input,
            count(graph.macs),
            f"{f.median:.2f}",
            f"{f.p90:.2f}",
            f"{f.p99:.2f}",
            f"{f.images_per_second:.1f}",
            f"{f.operations_per_second / 1e9:.1f}",
        )
        for (cfg, _), f, graph in zip(pairs, figures, graphs, strict=True)
    ]
    print_table(("network", "input", "MACs", "median ms", "p90", "p99", "images/s", "Gop/s"), rows, left=2)
    print(f"\n{runner}, batch {figures[0].batch}, {figures[0].runs} runs" + (" in turn" if len(pairs) > 1 else ""))
    if gain:
        print(
            f"speed-up {gain['speed_up']:.2f}x: {100 * gain['operations_saved']:.1f} % of the operations saved, "
            f"{100 * gain['time_saved']:.1f} % of the time"
        )
        if gain["yield"] is not None:
            print(f"{100 * gain['yield']:.0f} % of what the operations promised became time")


def _print_layers(graphs: list[Graph], tables: list[dict[int, float] | None], most: int) -> None:
    """Shows where the time goes, and widths that suit no vector unit."""
    graph, table = graphs[0], tables[0]
    if table is None or most < 1:
        return
    total = sum(table.values())
    slowest = sorted(table.items(), key=lambda entry: -entry[1])[:most]
    rows = []
    for index, ms in slowest:
        layer = graph[index]
        rate = 2 * layer.macs / ms / 1e6 if ms else 0.0
        odd = _odd(layer)
        rows.append((index, layer.name, layer.output, f"{ms:.3f}", f"{100 * ms / total:.1f} %", f"{rate:.1f}",
                     "not in eights" if odd else ""))  # fmt: skip
    print("\nwhere the time goes")
    print_table(("layer", "kind", "output", "ms", "share", "Gop/s", "width"), rows, left=3)
    odd_time = sum(ms for index, ms in table.items() if _odd(graph[index]))
    if odd_time > 0.2 * total:
        warn(
            f"{100 * odd_time / total:.0f} % of the time is spent in convolutions whose widths are no multiples of 8: "
            "prune again with --round-to 8 and compare"
        )


def _odd(layer: Layer) -> bool:
    """Whether a convolution has a width that vector units handle badly; the image's channels are nobody's choice."""
    if not isinstance(layer.kind, Convolutional) or layer.inputs[0].c <= 4:
        return False
    return layer.output.c % 8 != 0 or layer.inputs[0].c % 8 != 0
