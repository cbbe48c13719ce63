"""The loss of a classifier: [softmax], and a [cost] after it (`softmax_layer.c`, `cost_layer.c`)."""

from __future__ import annotations

import torch
from torch import Tensor

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.simple import Cost, Softmax
from darkprune.training.losses.base import with_delta


class SoftmaxLoss:
    """Cross-entropy with darknet's delta, truth − probability, independent of the temperature.

    Attributes:
        layer: the [softmax].
        classes: number of classes.
        smoothing: part of the truth that is spread over the other classes (`label_smooth_eps` of [net]).
        squares: factor of a [cost] after it, whose delta, truth − probability as well, is added in darknet.
    """

    def __init__(self, graph: Graph) -> None:
        """Finds the network's last [softmax].

        Raises:
            TrainingError: there is none, or it is one that cannot be trained here.
        """
        found = [layer for layer in graph if isinstance(layer.kind, Softmax)]
        if not found:
            raise TrainingError(f"{graph.cfg.source}: has neither a detection head nor a [softmax] to train")
        self.layer: Layer = found[-1]
        kind = self.layer.kind
        assert isinstance(kind, Softmax)
        options = graph.options(self.layer)
        place = f"{graph.cfg.source}:{self.layer.line}: [softmax]"
        if options.has("tree") or kind.groups != 1 or options.flag("noloss"):
            raise TrainingError(f"{place} with tree=, groups= or noloss= cannot be trained here")
        self.temperature = kind.temperature
        self.classes = self.layer.output.outputs
        self.smoothing = graph.net_options().float("label_smooth_eps")
        self.squares = 0.0
        for layer in graph.layers[self.layer.index + 1 :]:
            if not isinstance(layer.kind, Cost):
                raise TrainingError(
                    f"{graph.cfg.source}:{layer.line}: [{layer.name}] after [softmax] cannot be trained"
                )
            cost = graph.options(layer)
            if cost.text("type", "sse") != "sse" or cost.float("ratio"):
                raise TrainingError(f"{graph.cfg.source}:{layer.line}: only [cost] type=sse can be trained here")
            self.squares += cost.float("scale", 1.0)

    def truth(self, classes: Tensor) -> Tensor:
        """Returns the wanted probabilities for classes (b,): (b, classes)."""
        hot = torch.nn.functional.one_hot(classes, self.classes).float()
        if not self.smoothing or self.classes < 2:
            return hot
        return hot * (1 - self.smoothing) + (1 - hot) * self.smoothing / (self.classes - 1)

    def __call__(self, raw: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the loss.

        Args:
            raw: (b, classes) what the [softmax] reads.
            truth: (b, classes).

        Returns:
            A scalar whose gradient at `raw` is −delta, summed over the images; and (b, classes) probabilities.
        """
        with torch.no_grad():
            chances = (raw.detach().float() / self.temperature).softmax(dim=1)
            apart = truth - chances
            surprise = -chances.clamp(min=torch.finfo(chances.dtype).tiny).log()
            entropy = surprise[truth != 0].sum()  # darknet's figure does not weigh by the truth
            value = entropy if not self.squares else (entropy + apart.square().sum()) / 2
        return with_delta(raw.float(), apart * (1 + self.squares), value), chances
