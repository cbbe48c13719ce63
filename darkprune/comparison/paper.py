"""The tables of Chu et al. 2023 (arXiv 2306.01526) as comparisons, and what they published.

They trained on PASCAL VOC (16,551 images, 4,952 to measure on) at 416×416. Other data, or a network of one's own, gives
the same rows without the published figures meaning more than an order of magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from darkprune.comparison.settings import CompareSettings
from darkprune.graph.graph import Graph
from darkprune.selection.allocation import TABLE1
from darkprune.training.presets import SPARSITY_PRESETS

#: sparsity, method, budget, recovery; empty where nothing is pruned, or nothing trained
PaperRow = tuple[str, str, str, str]

#: the networks of the paper: number of layers, and parameters in millions with 20 classes
NETWORKS = {"yolov4": (162, 64.1), "yolov3": (107, 61.7), "mobilenet-yolov3": (59, 24.3)}
TOLERANCE = 0.05  #: of the parameters: other numbers of classes
#: recoveries: none, fine-tuned, and distilled after that
STEPS = ("none", "finetune", "finetune+distill")
#: per network the budgets that its tables are about, and what a number is about
OWN_BUDGETS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "yolov4": ("macs", tuple(TABLE1)),
    "yolov3": ("macs", ("yolov3",)),
    "mobilenet-yolov3": ("channels", ("0.35",)),
}
#: for any other network: the parameters that the five models of Table 2 keep, and the shares of channels of the others
OTHER_BUDGETS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "yolov4": ("params", ("0.382", "0.352", "0.327", "0.301", "0.266")),
    "yolov3": ("channels", ("0.36",)),
    "mobilenet-yolov3": ("channels", ("0.35",)),
}
RECOVERY_EPOCHS = 50.0  #: the authors fine-tune for 20 to 50 epochs


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table, or figure.

    Attributes:
        network: the network of the paper that it is about.
        methods, recoveries, sparsities: its rows.
        only: the one of the network's budgets that it is about; None for all.
        ratios: instead of them, shares of the channels that remain.
    """

    network: str = "yolov4"
    methods: tuple[str, ...] = ("group",)
    recoveries: tuple[str, ...] = STEPS
    sparsities: tuple[str, ...] = ("dynamic",)
    only: int | None = None
    ratios: tuple[str, ...] = ()


TABLES: Mapping[str, Table] = {
    "table3": Table(),  # five models of YOLOv4, pruned, fine-tuned and distilled
    "table4": Table(methods=("slimming", "group"), only=1),
    "table5": Table(methods=("thinet", "group"), only=1),
    "table9": Table(sparsities=("constant", "dynamic"), recoveries=("none",), only=1),
    "table10": Table(network="yolov3"),
    "table11": Table(network="mobilenet-yolov3"),
    "fig10": Table(
        methods=("slimming", "thinet", "layer-separation", "eagleeye", "group"),
        recoveries=("finetune", "finetune+distill"),
        ratios=("0.7", "0.6", "0.5", "0.4"),
    ),
}


def with_paper(settings: CompareSettings, graph: Graph) -> CompareSettings:
    """Fills in the rows and the training of the table that is asked for, where the user says nothing else.

    Args:
        graph: the given network: one of the paper's, or any other, for which the budgets are fractions.
    """
    if settings.paper is None:
        return settings
    table = TABLES[settings.paper]
    own = network_of(graph)
    of_table = (own or table.network) if settings.paper == "table9" else table.network
    kind, budgets = (OWN_BUDGETS if own == of_table else OTHER_BUDGETS)[of_table]
    if table.ratios:
        kind, budgets = "channels", table.ratios
    elif table.only is not None and len(budgets) > 1:
        budgets = (budgets[table.only],)
    preset = SPARSITY_PRESETS[of_table]
    asked: dict[str, Any] = {
        "methods": table.methods,
        "budgets": budgets,
        "budget_of": kind,
        "recoveries": table.recoveries,
        "sparsities": table.sparsities,
        **{name: preset[name] for name in ("s", "batch", "lr", "policy")},
    }
    if settings.iterations is None and settings.epochs is None:
        asked |= {"sparse_epochs": preset["epochs"], "epochs": RECOVERY_EPOCHS}
    given = {field.name for field in fields(settings) if getattr(settings, field.name) != field.default}
    return replace(settings, **{name: value for name, value in asked.items() if name not in given})


def published_for(graph: Graph) -> Mapping[PaperRow, float]:
    """Returns mAP@0.5 as published, as fractions, for the network of the paper that this is; else nothing."""
    return PUBLISHED.get(network_of(graph), {})


def network_of(graph: Graph) -> str:
    """Returns which network of the paper this is; empty for any other."""
    for name, (layers, millions) in NETWORKS.items():
        if len(graph) == layers and abs(graph.params / 1e6 / millions - 1) < TOLERANCE:
            return name
    return ""


def _models(recovery: str, *values: float) -> dict[PaperRow, float]:
    return {("dynamic", "group", name, recovery): value for name, value in zip(TABLE1, values, strict=True)}


#: network -> mAP@0.5 by row
PUBLISHED: Mapping[str, Mapping[PaperRow, float]] = {
    "yolov4": {
        ("", "", "", ""): 0.871,
        ("dynamic", "", "", ""): 0.798,
        ("constant", "", "", ""): 0.712,
        ("dynamic", "group", "table1-model2", "none"): 0.563,
        **_models("finetune", 0.804, 0.811, 0.805, 0.795, 0.759),
        **_models("finetune+distill", 0.865, 0.866, 0.848, 0.833, 0.763),
    },
    "yolov3": {
        ("dynamic", "", "", ""): 0.665,
        ("constant", "", "", ""): 0.592,
        ("dynamic", "group", "yolov3", "none"): 0.652,
        ("dynamic", "group", "yolov3", "finetune"): 0.668,
        ("dynamic", "group", "yolov3", "finetune+distill"): 0.682,
    },
    "mobilenet-yolov3": {
        ("dynamic", "", "", ""): 0.728,
        ("constant", "", "", ""): 0.713,
        ("dynamic", "group", "0.35", "none"): 0.722,
        ("dynamic", "group", "0.35", "finetune"): 0.721,
        ("dynamic", "group", "0.35", "finetune+distill"): 0.732,
    },
}
