"""`darkprune bench`: latency of a pair, or of two in turn."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from darkprune.api.bench import BenchResult, BenchSettings, Timing, bench
from darkprune.api.pair import load
from darkprune.cli.console import add_json, add_pair, count, print_result, print_table
from darkprune.cli.flags import add_flags, read_flags
from darkprune.graph.graph import Layer
from darkprune.layers.convolution import Convolutional


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument("--against", nargs=2, metavar=("CFG", "WEIGHTS"), help="a second pair, timed in turn with it")
    add_flags(parser, BenchSettings)
    parser.add_argument("--layers", type=int, default=12, metavar="N", help="slowest layers to show (default 12)")
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints latencies."""
    against = load(*args.against) if args.against else None
    result = bench(load(args.cfg, args.weights), read_flags(BenchSettings, args), against=against)
    names = [args.cfg, *(args.against or ())[:1]]
    warnings = (*result.warnings, *_odd_widths(result.networks[0]))
    print_result(args, result.to_json(), warnings, lambda: _print(result, names, args.layers))
    return 0


def _print(result: BenchResult, names: Sequence[str], layers: int) -> None:
    rows = [
        (
            name,
            timing.graph.net.input,
            count(timing.graph.macs),
            f"{timing.latency.median:.2f}",
            f"{timing.latency.p90:.2f}",
            f"{timing.latency.p99:.2f}",
            f"{timing.latency.images_per_second:.1f}",
            f"{timing.latency.operations_per_second / 1e9:.1f}",
        )
        for name, timing in zip(names, result.networks, strict=True)
    ]
    print_table(("network", "input", "MACs", "median ms", "p90", "p99", "images/s", "Gop/s"), rows, left=2)
    latency, gain = result.networks[0].latency, result.gain
    print(f"\n{result.runner}, batch {latency.batch}, {latency.runs} runs{' in turn' if gain else ''}")
    if gain:
        low, high = gain.speed_up_range
        print(
            f"speed-up {gain.speed_up:.2f}x (95 %: {low:.2f} to {high:.2f}), the median over pairs of runs: "
            f"{100 * gain.operations_saved:.1f} % of the operations saved, {100 * gain.time_saved:.1f} % of the time"
        )
        if low <= 1 <= high:
            print("no difference that could be told from noise; more --runs, or a quieter machine, may show one")
        elif gain.speed_up < 1:
            print("it is slower with fewer operations: the layers below, or --round-to 8 in prune, may show why")
        elif gain.share is not None:
            print(f"{100 * gain.share:.0f} % of the saved operations became saved time")
    _print_layers(result.networks[0], layers)


def _print_layers(timing: Timing, most: int) -> None:
    """Shows where the time goes, and which widths suit no vector unit."""
    graph, table = timing.graph, timing.layers_ms
    if table is None or most < 1:
        return
    total = sum(table.values())
    slowest = sorted(table.items(), key=lambda entry: -entry[1])[:most]
    rows = []
    for index, ms in slowest:
        layer = graph[index]
        rate = 2 * layer.macs / ms / 1e6 if ms else 0.0
        note = "not in eights" if _has_odd_width(layer) else ""
        share = f"{100 * ms / total:.1f} %"
        rows.append((index, layer.name, layer.output, f"{ms:.3f}", share, f"{rate:.1f}", note))
    print("\nwhere the time goes")
    print_table(("layer", "kind", "output", "ms", "share", "Gop/s", "width"), rows, left=3)


def _odd_widths(timing: Timing) -> list[str]:
    """Warns where much time goes into widths that suit no vector unit."""
    table = timing.layers_ms or {}
    total, odd = sum(table.values()), sum(ms for index, ms in table.items() if _has_odd_width(timing.graph[index]))
    if odd <= 0.2 * total:
        return []
    return [
        f"{100 * odd / total:.0f} % of the time is spent in convolutions whose widths are no multiples of 8: "
        "prune again with --round-to 8 and compare"
    ]


def _has_odd_width(layer: Layer) -> bool:
    """Returns whether vector units handle a convolution's width badly; the channels of the image do not count."""
    if not isinstance(layer.kind, Convolutional) or layer.inputs[0].c <= 4:
        return False
    return layer.output.c % 8 != 0 or layer.inputs[0].c % 8 != 0
