"""Published settings of sparse training.

Source: Chu et al., arXiv 2306.01526, §5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from darkprune.graph.graph import Graph
from darkprune.graph.groups import PRESETS as GROUP_PRESETS
from darkprune.training.settings import TrainSettings

_COMMON: Mapping[str, Any] = {
    "sparsity": "dynamic",
    "lr": 0.002,
    "policy": "cosine",
    "adam": False,
    "epochs": 200.0,
    "size": "416",
    "keep_fraction": 0.3,
}
#: name -> what the paper says of its training, by the names of settings
SPARSITY_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "yolov4": {**_COMMON, "s": 0.00075, "batch": 16},
    "yolov3": {**_COMMON, "s": 0.003, "batch": 32},
    "mobilenet-yolov3": {**_COMMON, "s": 0.005, "batch": 32},
}


def with_preset(settings: TrainSettings, graph: Graph) -> TrainSettings:
    """Fills in what `sparsity_preset` sets and the user does not.

    The groups of the histograms are the paper's where the network has its layers.
    """
    name = settings.sparsity_preset
    if name is None:
        return settings
    chosen = {key: value for key, value in SPARSITY_PRESETS[name].items() if getattr(settings, key) is None}
    if settings.iterations is not None:
        chosen.pop("epochs", None)
    if settings.groups == "auto" and GROUP_PRESETS[name][0] == len(graph):
        chosen["groups"] = name
    return replace(settings, **chosen)
