"""Learning from the unpruned network: feature maps, soft targets and labels.

    L_total = L_maps + L_soft + L_hard

L_maps compares feature maps: where they are active (group spatial attention, for which the number of channels does not
matter), or channel by channel, which is possible without adapters because the channels of a pruned network are some of
its teacher's. L_soft draws the student's class scores and boxes to the teacher's. L_hard is the loss against labels;
images without labels do without.

The published weights belong to a program whose L_hard is a mean over cells and objects; darknet's is a sum, and as
printed L_maps is 700 to 3000 times as large. So the preset `paper` scales L_maps as a whole to the size that L_hard
has at the first step. The paper's soft targets do not contain the objectness, so that without labels nothing teaches
it; in `objectness` every prediction takes part, classes and boxes as far as the teacher sees an object.

Sources: Chu et al., arXiv 2306.01526, and the authors' program; Mehta and Ozturk, *Object detection at 200 frames per
second*, arXiv 1805.06361 (scaling by objectness); Cao et al., *PKD*, NeurIPS 2022 (normalised features).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.heads import Head
from darkprune.network import Network, NetworkOutput
from darkprune.surgery.apply import Cut
from darkprune.training.data.batches import Batch
from darkprune.training.distillation.soft_head import SoftHead, class_loss
from darkprune.training.distillation.taps import Tap
from darkprune.training.distillation.terms import LossTerms
from darkprune.training.loop.checkpoint import State
from darkprune.training.loop.objective import DetectionObjective, Objective
from darkprune.training.losses import Loss

_TINY = 1e-9
_LEAST_NORM = 1e-12
_LEAST_VARIANCE = 1e-6  #: of a channel that is constant over the images


class DistillationObjective(Objective):
    """L_maps + L_soft + L_hard.

    Attributes:
        teacher: the network that is learned from.
        pairs: the maps that are compared.
        terms: how.
    """

    def __init__(
        self,
        student: Graph,
        teacher: Network,
        pairs: Sequence[Tap],
        terms: LossTerms,
        hard: DetectionObjective | None,
        share: Callable[[float], float] = lambda value: value,
    ) -> None:
        """Pairs the heads, and puts the teacher into inference.

        Args:
            teacher: with its weights, on the device.
            hard: the loss against labels; None where there are none.
            share: gives all processes the value of the first.

        Raises:
            TrainingError: the heads of the two networks differ.
        """
        self.teacher = teacher.eval().requires_grad_(False)
        self.pairs = tuple(pairs)
        self.terms = terms
        self.taps = frozenset(pair.student for pair in pairs)
        self._labelled = hard is not None
        self._hard = hard if terms.hard_weight else None
        self._heads = _pair_heads(teacher.graph, student)
        self._share = share
        self._scale: float | None = None if terms.balanced else 1.0
        own = ("loss", "features" if terms.maps == "features" else "attention", "soft_class", "soft_box")
        self.columns = own if self._hard is None else (*own, "hard", *self._hard.columns[1:])

    def teach(self, images: Tensor) -> NetworkOutput:
        """See `Objective.teach`."""
        with torch.no_grad():
            return self.teacher(images, {pair.teacher for pair in self.pairs})

    def compute(self, output: NetworkOutput, batch: Batch, seen: int, wanted: NetworkOutput | None) -> Loss:
        """See `Objective.compute`."""
        assert wanted is not None
        terms, zero = self.terms, next(iter(output.heads.values())).new_zeros((), dtype=torch.float32)
        maps = sum((pair.weight * self._apart(pair, wanted, output) for pair in self.pairs), zero)
        classes = boxes = zero
        for head, (theirs, ours) in self._heads:
            of_classes, of_boxes = self._soft(head, wanted.heads[theirs], output.heads[ours], batch)
            classes, boxes = classes + terms.class_weight * of_classes, boxes + terms.box_weight * of_boxes
        hard = self._hard.compute(output, batch, seen, None) if self._hard is not None else None
        others = classes + boxes if hard is None else terms.hard_weight * hard.value
        if self._scale is None:
            sizes = torch.stack([others.detach(), maps.detach()]).tolist()
            self._scale = self._share(sizes[0] / sizes[1] if sizes[1] > _TINY else 1.0)
        maps = maps * (self._scale * terms.maps_weight)
        value = maps + classes + boxes
        if hard is not None:
            value = value + terms.hard_weight * hard.value
        parts = torch.stack([part.detach() for part in (value, maps, classes, boxes)])
        return Loss(value, parts if hard is None else torch.cat([parts, hard.parts]))

    def report(self, sums: list[float], images: int) -> dict[str, float]:
        """See `Objective.report`."""
        found = dict(zip(self.columns, (value / images for value in sums[:4]), strict=False))
        if self._hard is not None:
            hard = self._hard.report(sums[4:], images)
            found["hard"] = hard.pop("loss")
            found.update(hard)
        return found

    def use(self, cut: Cut) -> None:
        """See `Objective.use`."""
        self.pairs = tuple(pair.after(cut) for pair in self.pairs)

    def state_dict(self) -> State:
        """See `Objective.state_dict`."""
        return {"scale": self._scale, "channels": [pair.channels for pair in self.pairs]}

    def load_state_dict(self, state: State) -> None:
        """See `Objective.load_state_dict`."""
        self._scale = state["scale"]
        pairs = zip(self.pairs, state["channels"], strict=True)
        self.pairs = tuple(replace(pair, channels=channels) for pair, channels in pairs)

    def _apart(self, pair: Tap, wanted: NetworkOutput, output: NetworkOutput) -> Tensor:
        teacher, student = wanted.taps[pair.teacher], output.taps[pair.student]
        if self.terms.maps != "features":
            return attention_loss(teacher, student, mean=self.terms.maps == "attention-mean")
        theirs, ours = zip(*pair.channels, strict=True)
        return feature_loss(teacher[:, list(theirs)], student[:, list(ours)])

    def _soft(self, head: SoftHead, teacher: Tensor, student: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the class and the box term of one head, summed over the images."""
        terms = self.terms
        theirs, ours = head.cells(teacher), head.cells(student)
        if terms.classes == "objectness":
            return head.scaled_by_objectness(theirs, ours)
        with_objectness = terms.classes == "all"
        apart = class_loss(
            head.scores(theirs, with_objectness), head.scores(ours, with_objectness), terms.temperature
        ).flatten(1)
        classes = apart.sum() * terms.temperature**2 if with_objectness else apart.mean(dim=1).sum()
        grid = (teacher.shape[3], teacher.shape[2])
        place = head.priors(theirs, batch.truths if self._labelled else None, terms.box_threshold, grid, batch.size)
        apart = head.boxes(theirs, place, grid, batch.size) - head.boxes(ours, place, grid, batch.size)
        if terms.boxes == "input":
            apart = apart / apart.new_tensor((*grid, *grid))
        boxes = apart.square().sum()
        return classes, boxes * len(batch.truths) if terms.box_batch else boxes


def _pair_heads(teacher: Graph, student: Graph) -> tuple[tuple[SoftHead, tuple[int, int]], ...]:
    """Pairs the heads of the two networks in order."""
    theirs, ours = teacher.heads, student.heads
    if [_shape_of(layer) for layer in theirs] != [_shape_of(layer) for layer in ours]:
        raise TrainingError(
            f"{teacher.cfg.source} and {student.cfg.source} have different heads (classes, anchors or number): "
            "a student can only learn from the network that it was cut from"
        )
    return tuple((SoftHead(a.kind), (a.index, b.index)) for a, b in zip(theirs, ours, strict=True))


def _shape_of(layer: Layer) -> tuple[object, ...]:
    """Returns what two heads must have in common."""
    kind = layer.kind
    assert isinstance(kind, Head)
    return type(kind), kind.classes, kind.anchors, layer.output.h, layer.output.w


def attention(features: Tensor) -> Tensor:
    """Returns where a map is active: Σ_c |A_c|² over the positions, of norm 1; (b, c, h, w) -> (b, h·w)."""
    where = features.float().square().sum(dim=1).flatten(1)
    return functional.normalize(where, dim=1, eps=_LEAST_NORM)


def attention_loss(teacher: Tensor, student: Tensor, *, mean: bool = False) -> Tensor:
    """Compares where two maps (b, c, h, w) are active, in sum or mean over positions; their channels may differ.

    Returns:
        Scalar, summed over the images.
    """
    apart = (attention(teacher) - attention(student)).square()
    return apart.mean(dim=1).sum() if mean else apart.sum()


def feature_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """Compares two maps (b, c, h, w) of the same channels: 1 − the correlation of each channel, mean over channels.

    Half the squared distance after each channel is normalised over images and positions, so that scale and offset of
    a channel do not count (Cao et al., *PKD: general distillation framework for object detectors via Pearson
    correlation coefficient*, NeurIPS 2022).

    Returns:
        Scalar, times the number of images.
    """
    apart = (_normalised(teacher) - _normalised(student)).square().mean()
    return 0.5 * apart * len(teacher)


def _normalised(features: Tensor) -> Tensor:
    values = features.float()
    variance, mean = values.var(dim=(0, 2, 3), correction=0, keepdim=True), values.mean(dim=(0, 2, 3), keepdim=True)
    return (values - mean) / (variance + _LEAST_VARIANCE).sqrt()
