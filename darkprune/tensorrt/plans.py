"""Plans of TensorRT for RTX side by side: of a file, of the network before pruning, of rounded widths, of FP16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from darkprune.darknet.leftovers import TemporaryFolder
from darkprune.errors import DarkpruneError
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import Graph, build_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.layers.convolution import Convolutional
from darkprune.onnx.file import write_onnx
from darkprune.onnx.model import build_onnx
from darkprune.onnx.options import ExportOptions, LeftOut
from darkprune.onnx.precision import to_half
from darkprune.onnx.quantize import quantize_onnx
from darkprune.progress import track
from darkprune.targets import ROUND_TO, target
from darkprune.tensorrt.operators import tensor_types
from darkprune.tensorrt.plan import EnginePlan, parse_file, plan_file

_MB = 1e6


@dataclass(frozen=True)
class Plans:
    """What TensorRT for RTX plans for a network, on a processor and without running it.

    Attributes:
        network: the network's plan.
        others: by name: `original` before pruning, `rounded` with its widths rounded up to what the target wants,
            `fp16` where the network's is INT8.
    """

    network: EnginePlan
    others: Mapping[str, EnginePlan]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings that follow from the plans."""
        found, rounded, half = [], self.others.get("rounded"), self.others.get("fp16")
        if rounded is not None and _saves(rounded, self.network):
            found.append(
                f"widths that are no multiples of {ROUND_TO} are padded: {_figures(self.network)} per image, with "
                f"widths rounded up {_figures(rounded)}: prune with --target, or --round-to {ROUND_TO}"
            )
        if half is not None and half.bytes_written < self.network.bytes_written:
            found.append(
                f"in INT8 {_figures(self.network)} per image, in FP16 {_figures(half)}: take FP16 unless INT8 is "
                "measured to be faster"
            )
        return tuple(found)

    def to_json(self) -> dict[str, object]:
        """Returns the figures as JSON values."""
        return {"network": self.network.to_json(), **{name: plan.to_json() for name, plan in self.others.items()}}


def _saves(plan: EnginePlan, other: EnginePlan) -> bool:
    fewer = len(plan.kernels) < len(other.kernels) or plan.bytes_written < other.bytes_written
    return plan.copies < other.copies or (fewer and plan.bytes_written <= 1.02 * other.bytes_written)


def _figures(plan: EnginePlan) -> str:
    copies = f" ({plan.copies} cop{'y' if plan.copies == 1 else 'ies'})" if plan.copies else ""
    return f"{len(plan.kernels)} kernels{copies} write {plan.bytes_written / _MB:.1f} MB"


@dataclass(frozen=True)
class PlannedNetwork:
    """A network, and the form in which it is planned.

    Attributes:
        graph: the network.
        options: what its file is made for.
        precision: what the engine will compute in.
        left_out: layers that stay in higher precision in INT8.
    """

    graph: Graph
    options: ExportOptions
    precision: str
    left_out: LeftOut

    def plan(self) -> EnginePlan:
        """Plans it with weights of no meaning, on which a plan does not depend.

        Raises:
            ExportError: options that do not fit it, or TensorRT for RTX refuses its file.
        """
        options = replace(self.options, names=(), plan_hash="")
        with TemporaryFolder() as folder:
            path, weights = Path(folder) / "network.onnx", Path(folder) / "any.weights"
            with weights.open("wb") as file:
                write_fresh(self.graph, file, seed=0, vary=True)
            with NetworkWeights(self.graph, weights) as pair:
                network = build_onnx(pair, options)
                if self.precision == "int8":
                    types = tensor_types(network.model.graph)
                    ranges = {name: (-1.0, 1.0) for name, kind in types.items() if kind == "FP32"}
                    place = target(options.target)
                    network = quantize_onnx(network, self.graph, ranges, self.left_out, place)
                elif self.precision == "fp16":
                    network = to_half(network)
                write_onnx(network, path)
            return plan_file(path)


def compare_plans(network: PlannedNetwork, path: Path, in_file: str, original: Graph | None = None) -> Plans:
    """Plans a network, and what it is to be compared with.

    Args:
        network: what is planned.
        path: its file; only parsed where the engine will compute in another precision than it is written in.
        in_file: the precision that it is written in.
        original: the network before pruning, where it is known.

    Raises:
        ExportError: TensorRT for RTX refuses the file.
    """
    wanted = dict[str, PlannedNetwork]()
    if original is not None:
        wanted["original"] = replace(network, graph=original)
    rounded = _rounded(network)
    if rounded is not None:
        wanted["rounded"] = replace(network, graph=rounded)
    if network.precision == "int8":
        wanted["fp16"] = replace(network, precision="fp16")
    step = track("planning with TensorRT for RTX", 1 + len(wanted), "plan")
    plan = plan_file(path) if in_file == network.precision else network.plan()
    if plan.kernels and in_file != network.precision:
        parse_file(path)
    step()
    others = {}
    for name, other in wanted.items() if plan.kernels else ():
        others[name] = other.plan()
        step()
    return Plans(plan, others)


def padding_warning(network: PlannedNetwork) -> str:
    """Returns a warning of a pruned network whose widths TensorRT will pad, empty if there are none."""
    if not target(network.options.target).tensorrt or network.precision == "fp32":
        return ""
    rounded = _rounded(network)
    if rounded is None:
        return ""
    odd = sum(
        layer.output.c != other.output.c
        for layer, other in zip(network.graph, rounded, strict=True)
        if isinstance(layer.kind, Convolutional)
    )
    return (
        f"widths of {odd} convolutions are no multiples of {ROUND_TO}: TensorRT pads them, often by copying the whole "
        f"map: prune with --target, or --round-to {ROUND_TO}"
    )


def with_widths(graph: Graph, width: Callable[[int], int]) -> Graph | None:
    """Changes the widths of a network's convolutions: `width` gives the new number of channels by the old one.

    Coupled layers have equal widths, so they stay equal. What heads read, and the outputs of a classifier, stay as they
    are.

    Returns:
        The other network, which has no weights; the graph itself where nothing changes, None where the new widths do
        not fit together.
    """
    fixed = {source for head in graph.heads for source in head.sources} | set(graph.outputs)
    changes: dict[tuple[int, str], str] = {}
    for layer in graph:
        if isinstance(layer.kind, Convolutional) and layer.index not in fixed:
            new = width(layer.output.c)
            if new != layer.output.c:
                keys = ("filters", "groups") if layer.is_depthwise else ("filters",)
                changes |= {(layer.section, key): str(new) for key in keys}
    if not changes:
        return graph
    try:
        return build_graph(graph.cfg.with_values(changes))
    except DarkpruneError:
        return None


def _rounded(network: PlannedNetwork) -> Graph | None:
    """Returns a pruned network with widths as TensorRT wants them; None where they are so, or it is not pruned."""
    rounded = rounded_up(network.graph, ROUND_TO) if network.options.plan_hash else None
    return None if rounded is network.graph else rounded


def rounded_up(graph: Graph, multiple: int) -> Graph | None:
    """Returns a network with every width rounded up to a multiple; see `with_widths`."""
    return with_widths(graph, lambda width: -(-width // multiple) * multiple)
