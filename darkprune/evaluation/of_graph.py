"""Heads and input of a network, as evaluation needs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from darkprune.data.class_names import network_names
from darkprune.data.labelled import Labelled, open_labelled
from darkprune.data.loading import InputShape
from darkprune.data.text_files import read_lines
from darkprune.errors import DataError, GraphError
from darkprune.evaluation.heads import Head, HeadKind
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.heads import GaussianYolo, Region, Yolo
from darkprune.settings import PathLike

_MAX_TREE_BYTES = 16 << 20


def heads_of(graph: Graph) -> tuple[Head, ...]:
    """Returns the detection heads of a network in order of their layers.

    Raises:
        GraphError: it has no head that can be decoded.
        DataError: the tree of a [region] cannot be read.
    """
    heads = tuple(_head(graph, layer) for layer in graph.heads)
    if not heads:
        raise GraphError(f"{graph.cfg.source}: has no [yolo], [Gaussian_yolo] or [region] layer, so it detects nothing")
    return heads


def labelled_for(graph: Graph, source: PathLike, split: str, names: PathLike | None = None) -> Labelled:
    """Reads labelled images for a network's last head, see `open_labelled`.

    Raises:
        GraphError: the network detects nothing.
        DataError: the images cannot be used, or do not fit the head.
    """
    return open_labelled(source, split, names, heads_of(graph)[-1].classes, network_names=network_names(graph))


def input_shape(graph: Graph) -> InputShape:
    """Returns the input of a network."""
    net = graph.net
    return InputShape(net.input.w, net.input.h, net.input.c, net.letter_box)


def read_tree(path: Path) -> tuple[int, ...]:
    """Reads the parent class of every class from a `tree=` file: `name parent` per line, −1 for roots.

    Raises:
        DataError: it cannot be read, or a parent does not stand before its children.
    """
    parents = []
    for number, line in enumerate(read_lines(path, _MAX_TREE_BYTES, "a tree of classes"), start=1):
        fields = line.split()
        if len(fields) != 2 or not fields[1].removeprefix("-").isascii() or not fields[1].removeprefix("-").isdigit():
            raise DataError(f"{path}:{number}: is not `name parent`, with the parent's line counted from 0 or −1")
        parent = int(fields[1][:12])
        if parent >= number - 1:
            raise DataError(f"{path}:{number}: parent {parent} has to stand before its children")
        parents.append(max(parent, -1))
    return tuple(parents)


def _head(graph: Graph, layer: Layer) -> Head:
    kind = layer.kind
    if not isinstance(kind, Yolo | GaussianYolo | Region):
        raise GraphError(f"{graph.cfg.source}:{layer.line}: no rule for decoding [{layer.name}]")
    name: HeadKind = "region" if isinstance(kind, Region) else "yolo" if isinstance(kind, Yolo) else "Gaussian_yolo"
    head = Head(name, kind.classes, kind.anchors, graph.net.input.w, graph.net.input.h)
    if isinstance(kind, Region):
        tree = read_tree(Path(kind.tree)) if kind.tree else None
        if tree is not None and len(tree) != kind.classes:
            raise DataError(f"{kind.tree}: has {len(tree)} classes but [region] in {graph.cfg.source} {kind.classes}")
        return replace(head, coords=kind.coords, softmax=kind.softmax, tree=tree)
    head = replace(head, scale_x_y=kind.scale_x_y, nms_kind=kind.nms_kind, beta_nms=kind.beta_nms)
    if isinstance(kind, Yolo):
        return replace(head, new_coords=kind.new_coords)
    return replace(head, yolo_point=kind.yolo_point)
