"""`darkprune groups`: how a network is divided, coupled and pinned."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter

from darkprune.cli.console import add_json, print_result, print_table
from darkprune.graph.channels import ChannelMap, map_channels
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.groups import PRESETS, PruneGroup, divide
from darkprune.json_types import JsonObject
from darkprune.zoo import resolve


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("cfg", metavar="CFG", help="Darknet .cfg, or builtin:NAME")
    parser.add_argument(
        "--groups", default="auto", metavar="GROUPS", help=f"auto, {', '.join(PRESETS)}, or ranges 0-55,56-85,…"
    )
    add_json(parser)


def run(args: Namespace) -> int:
    """Prints groups, coupled sets, splits and pins."""
    graph = read_graph(resolve(args.cfg))
    channels = map_channels(graph)
    groups = [_group(graph, channels, group) for group in divide(graph, args.groups)]
    pins = _pins(channels)
    splits = [
        {"layer": split.layer, "blocks": len(split.classes), "channels": int(split.classes.shape[1])}
        for split in channels.splits
    ]
    sets = [list(layers) for layers in channels.coupled_sets]
    data = {"cfg": graph.cfg.source, "groups": groups, "coupled": sets, "splits": splits, "pinned": pins}
    print_result(args, data, graph.warnings, lambda: _print(channels, groups, splits, pins))
    return 0


def _group(graph: Graph, channels: ChannelMap, group: PruneGroup) -> JsonObject:
    layers = [graph[index] for index in channels.producers if index in group]
    free = sum(int(channels.free[channels.of_layer[layer.index]].sum()) for layer in layers)
    scales = list(dict.fromkeys(f"{layer.output.h}x{layer.output.w}" for layer in layers if layer.output.h > 1))
    return {
        "name": group.name,
        "layers": [group.first, group.last],
        "scales": scales,
        "convolutions": len(layers),
        "channels": sum(layer.output.c for layer in layers),
        "prunable": free,
    }


def _pins(channels: ChannelMap) -> list[JsonObject]:
    """Lists for each producing layer with pinned channels how many there are and why."""
    pins = []
    for index in channels.producers:
        classes = channels.of_layer[index]
        reasons = Counter(reason for number in classes.tolist() for reason in channels.pinned[number][:1])
        if reasons:
            pins.append({"layer": index, "channels": sum(reasons.values()), "reasons": list(reasons)})
    return pins


def _print(channels: ChannelMap, groups: list[JsonObject], splits: list[JsonObject], pins: list[JsonObject]) -> None:
    rows = [
        (
            g["name"],
            "-".join(map(str, g["layers"])),
            " ".join(g["scales"]),
            g["convolutions"],
            g["channels"],
            g["prunable"],
        )
        for g in groups
    ]
    print_table(("group", "layers", "scales", "convolutions", "channels", "prunable"), rows, left=3)
    print("\ncoupled: these keep the same channels")
    for layers in channels.coupled_sets:
        graph = channels.graph
        print(f"  {len(layers)} layers of {graph[layers[0]].output.c} channels: {', '.join(map(str, layers))}")
    if not channels.coupled_sets:
        print("  none")
    if splits:
        print("\nread in blocks: every block keeps as many channels")
        for split in splits:
            print(f"  layer {split['layer']}: {split['blocks']} blocks of {split['channels']}")
    print("\npinned: these keep all channels")
    by_reason: dict[str, list[int]] = {}
    for pin in pins:
        by_reason.setdefault("; ".join(pin["reasons"]), []).append(pin["layer"])
    for reason, numbers in by_reason.items():
        print(f"  layer{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}: {reason}")
    if not pins:
        print("  none")
