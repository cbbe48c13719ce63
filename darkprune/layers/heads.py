"""[yolo], [Gaussian_yolo], [region], [detection]: what they read and how their values decode."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from darkprune.darknet.options import Options
from darkprune.errors import CfgError
from darkprune.layers.base import ChannelRules, Feature, Labels, absolute, key, one, register, require_map
from darkprune.layers.simple import Final

_NO_EMBEDDING = 999_999
_MAX_CLASSES = 1_000_000
_TINY_ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0), (135.0, 169.0), (344.0, 319.0))


@dataclass(frozen=True)
class AnchorLayout:
    """Where the values of one anchor lie among its channels; the classes are the last of them.

    Attributes:
        box: positions of x, y, w, h (of a [region] with other `coords` of as many values).
        objectness: position of the objectness.
        classes: number of classes.
        spread: positions of the uncertainties of x, y, w, h; empty where there are none.
    """

    box: tuple[int, ...]
    objectness: int
    classes: int
    spread: tuple[int, ...] = ()

    @classmethod
    def of(cls, section: str, classes: int, coords: int = 4) -> AnchorLayout:
        """Returns the layout of a head.

        Args:
            section: `yolo`, `Gaussian_yolo` or `region`.
            coords: values of a box, for `region`.
        """
        if section == "Gaussian_yolo":  # x, σx, y, σy, w, σw, h, σh, objectness, classes…
            return cls((0, 2, 4, 6), 8, classes, (1, 3, 5, 7))
        return cls(tuple(range(coords)), coords, classes)

    @property
    def size(self) -> int:
        """Values per anchor."""
        return self.objectness + 1 + self.classes

    @property
    def class_values(self) -> slice:
        """The positions of the classes."""
        return slice(self.objectness + 1, self.size)


class Head(Final):
    """Base of the detection heads: their input is pinned; their output has its shape."""

    classes: int

    @property
    @abstractmethod
    def anchors(self) -> tuple[tuple[float, float], ...]:
        """Returns width and height of the anchors in use."""

    @property
    def layout(self) -> AnchorLayout:
        """Returns where the values of an anchor lie."""
        return AnchorLayout.of(self.names[0], self.classes)

    @property
    def channels(self) -> int:
        """Returns how many input channels the head needs."""
        return len(self.anchors) * self.layout.size

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Keeps the shape after checking the number of channels."""
        source = require_map(one(inputs), f"[{self.names[0]}]")
        if source.c != self.channels:
            raise CfgError(
                f"[{self.names[0]}] with classes={self.classes} needs {self.channels} channels, "
                f"but the layer before gives {source.c}: set its filters={self.channels}, or mend classes/mask/num"
            )
        return source


def _num(options: Options) -> int:
    return options.positive("num", 1, 4096)


def _classes(options: Options) -> int:
    return options.positive("classes", 20, _MAX_CLASSES)


def _anchors(options: Options, *, comment_ends: bool = False) -> tuple[tuple[float, float], ...]:
    """Returns `num` pairs; darknet fills missing ones with 0.5."""
    num = _num(options)
    flat = (*options.floats("anchors", comment_ends=comment_ends), *([0.5] * (2 * num)))
    return tuple((flat[2 * i], flat[2 * i + 1]) for i in range(num))


def _listed(options: Options) -> int:
    return len(options.floats("anchors", comment_ends=True))


def _misfit(listed: int, num: int, others: str = "") -> str | None:
    """Says what is wrong with a list of anchors that holds another number of values than num pairs.

    Args:
        listed: numbers in `anchors=`.
        num: anchors.
        others: what other programs do.
    """
    if listed in (0, 2 * num):
        return None
    effect = "takes 0.5 for the missing" if listed < 2 * num else "ignores the rest"
    cause = "correct num= or anchors= (is a comma missing?)" if listed < 2 * num else "correct num= or anchors="
    return f"anchors= has {listed} numbers, but num={num} needs {2 * num}: darknet {effect}{others}; {cause}"


@dataclass(frozen=True)
class MaskedHead(Head):
    """Base of the heads that use some of the anchors that the cfg lists.

    Attributes:
        mask: numbers of the anchors in use.
        all_anchors: width and height of all anchors in network pixels.
        listed: how many numbers `anchors=` lists.
    """

    other_keys = frozenset([
        "max", "max_delta", "counters_per_class", "label_smooth_eps", "objectness_smooth", "iou_normalizer",
        "obj_normalizer", "cls_normalizer", "delta_normalizer", "iou_loss", "iou_thresh_kind", "jitter", "resize",
        "ignore_thresh", "truth_thresh", "iou_thresh", "random", "map",
    ])  # fmt: skip

    classes: int = key(_classes)
    mask: tuple[int, ...] = key(lambda options: options.ints("mask", comment_ends=True) or tuple(range(_num(options))))
    all_anchors: tuple[tuple[float, float], ...] = key(_anchors)
    listed: int = key(_listed)
    scale_x_y: float = key(lambda options: options.float("scale_x_y", 1.0))
    nms_kind: str = key(lambda options: options.text("nms_kind", "default"))
    beta_nms: float = key(lambda options: options.float("beta_nms", 0.6))

    @property
    def anchors(self) -> tuple[tuple[float, float], ...]:
        """Returns the anchors in use; darknet reads junk past the last one, here it is its default of 0.5."""
        known = len(self.all_anchors)
        return tuple(self.all_anchors[index] if 0 <= index < known else (0.5, 0.5) for index in self.mask)

    def trouble(self, inputs: Sequence[Feature], output: Feature) -> str | None:
        """darknet checks neither the mask nor the anchors."""
        known = len(self.all_anchors)
        if all(0 <= index < known for index in self.mask):
            return _misfit(self.listed, known, ", OpenCV refuses") or self._published_mask()
        more = f"; anchors= has {self.listed // 2}: is that num?" if self.listed > 2 * known else ""
        return f"darknet reads past its {known} anchors: mask={','.join(map(str, self.mask))} with num={known}{more}"

    def _published_mask(self) -> str | None:
        """Says that the published yolov3-tiny.cfg does not go with the published weights."""
        if (self.all_anchors, self.mask, self.classes) != (_TINY_ANCHORS, (0, 1, 2), 80):
            return None
        return (
            "mask=0,1,2 stands in the published yolov3-tiny.cfg, but its published weights were trained with "
            "mask=1,2,3; with these, set that (COCO: 40.2 instead of 23.8 % mAP@0.5)"
        )


def _embedding_layer(options: Options) -> int | None:
    layer = options.int("embedding_layer", _NO_EMBEDDING)
    return None if layer == _NO_EMBEDDING else layer


@register
@dataclass(frozen=True)
class Yolo(MaskedHead):
    """A YOLOv3/v4 head: channel = anchor·(5 + classes) + (x, y, w, h, objectness, classes…) (`yolo_layer.c`).

    Attributes:
        anchors: width and height in network pixels of the anchors in use (after the mask).
        new_coords: no activation here (the convolution before is logistic); w, h decode as (2v)²·anchor.
        embedding_layer: layer whose output gives an embedding per anchor, as the cfg says it; None if unused.
    """

    names = ("yolo",)
    index_key = ("embedding_layer", False)
    other_keys = MaskedHead.other_keys | {
        "show_details", "focal_loss", "track_history_size", "sim_thresh", "dets_for_track", "dets_for_show",
        "track_ciou_norm",
    }  # fmt: skip

    all_anchors: tuple[tuple[float, float], ...] = key(lambda options: _anchors(options, comment_ends=True))
    new_coords: bool = key(lambda options: options.flag("new_coords"))
    embedding_layer: int | None = key(_embedding_layer)

    def references(self, index: int) -> tuple[int, ...]:
        """Returns the embedding layer."""
        return () if self.embedding_layer is None else (absolute(self.embedding_layer, index),)

    def label(self, inputs: Sequence[Labels], output: Feature, rules: ChannelRules) -> Labels:
        """Pins the input and the layer that gives embeddings."""
        for labels in rules.references:
            rules.pin(labels, "read as embeddings by a [yolo] (embedding_layer)")
        return super().label(inputs, output, rules)


@register
@dataclass(frozen=True)
class GaussianYolo(MaskedHead):
    """Gaussian YOLOv3: per anchor x, σx, y, σy, w, σw, h, σh, objectness, classes… (`gaussian_yolo_layer.c`)."""

    names = ("Gaussian_yolo",)
    other_keys = MaskedHead.other_keys | {"uc_normalizer"}

    yolo_point: str = key(lambda options: options.text("yolo_point", "center"))


@register
@dataclass(frozen=True)
class Region(Head):
    """A YOLOv2 head; anchors in cells; darknet lays its output out cell by cell (`region_layer.c`)."""

    names = ("region",)
    other_keys = frozenset([
        "max", "log", "sqrt", "focal_loss", "jitter", "resize", "rescore", "thresh", "classfix", "absolute", "random",
        "coord_scale", "object_scale", "noobject_scale", "mask_scale", "class_scale", "bias_match", "map",
    ])  # fmt: skip

    classes: int = key(_classes)
    coords: int = key(lambda options: options.positive("coords", 4, 4096))
    num: int = key(_num)
    all_anchors: tuple[tuple[float, float], ...] = key(_anchors)
    listed: int = key(_listed)
    softmax: bool = key(lambda options: options.flag("softmax"))
    tree: str = key(lambda options: options.text("tree"))  # the file is not opened

    def trouble(self, inputs: Sequence[Feature], output: Feature) -> str | None:
        """darknet does not check the anchors."""
        return _misfit(self.listed, self.num)

    @property
    def anchors(self) -> tuple[tuple[float, float], ...]:
        """Returns all anchors, in cells."""
        return self.all_anchors

    @property
    def layout(self) -> AnchorLayout:
        """Returns where the values of an anchor lie."""
        return AnchorLayout.of("region", self.classes, self.coords)


@register
@dataclass(frozen=True)
class Detection(Final):
    """A YOLOv1 head: side²·classes, then side²·num objectness, then boxes (`detection_layer.c`)."""

    names = ("detection",)
    other_keys = frozenset([
        "rescore", "max", "coord_scale", "forced", "object_scale", "noobject_scale", "class_scale", "jitter", "resize",
        "random", "reorg",
    ])  # fmt: skip

    classes: int = key(lambda options: options.positive("classes", 1, _MAX_CLASSES))
    coords: int = key(lambda options: options.positive("coords", 1, 4096))
    num: int = key(_num)
    side: int = key(lambda options: options.positive("side", 7, 4096))
    softmax: bool = key(lambda options: options.flag("softmax"))
    sqrt: bool = key(lambda options: options.flag("sqrt"))

    def output(self, inputs: Sequence[Feature]) -> Feature:
        """Keeps the number of values after checking it."""
        needed = self.side**2 * ((1 + self.coords) * self.num + self.classes)
        source = one(inputs)
        if source.outputs != needed:
            raise CfgError(f"[detection] needs {needed} inputs, but the layer before gives {source.outputs}")
        return Feature.flat(source.outputs)
