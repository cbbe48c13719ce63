"""Writes cfg/*.cfg: the project's own descriptions of published networks.

Each network is a function below, built from the same few blocks; layer numbers follow from the order of the calls. The
text is meant for people too: stages are named in comments, and every value stands in it that the network depends on.
Only keys are written that AlexeyAB's and hank-ai's darknet both read.

    python tools/write_cfgs.py [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cfg_blocks import (
    Network,
    alternate,
    csp_neck,
    csp_stage,
    cspdarknet53,
    darknet53,
    enlarge,
    mobilenet,
    spp,
    tiny_backbone,
)

ANCHORS_V2_TINY = "0.57273,0.677385, 1.87446,2.06253, 3.33843,5.47434, 7.88282,3.52778, 9.77052,9.16828"
ANCHORS_V3 = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
ANCHORS_V4 = "12,16, 19,36, 40,28, 36,75, 76,55, 72,146, 142,110, 192,243, 459,401"
ANCHORS_TINY = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"


# ---- necks with their heads


def v3_heads(n: Network, taps: tuple[int, int], pyramid: bool = False, **keys: object) -> None:
    """Neck and three heads of YOLOv3, coarse to fine, behind a map of stride 32."""
    n.activation = "leaky"
    keys = {"anchors": ANCHORS_V3, "num": 9, "jitter": 0.3, "truth_thresh": 1, "random": 1} | keys
    for number, (width, mask) in enumerate(((512, "6,7,8"), (256, "3,4,5"), (128, "0,1,2"))):
        n.note(f"head at stride {32 >> number}")
        if number:
            n.route(-4)
            enlarge(n, width)
            n.route(-1, taps[-number])
        if pyramid and number == 0:
            alternate(n, width, 3)
            spp(n)
            alternate(n, width, 3)
        else:
            alternate(n, width, 5)
        n.conv(2 * width, 3)
        n.predict(3, mask=mask, **keys)


def path_aggregation(
    n: Network, coarse: int, taps: tuple[int, int], block: Callable[[int], int], predict: Callable[[int], object]
) -> None:
    """PANet: top-down with lateral 1x1 convolutions, then bottom-up with a head at every stride, fine to coarse."""
    levels = [coarse]
    for width, tap in ((256, taps[1]), (128, taps[0])):
        n.note("top-down path")
        enlarge(n, width)
        n.route(tap)
        n.conv(width)
        n.route(-1, -3)
        levels.append(block(width))
    for number, width in enumerate((128, 256, 512)):
        n.note(f"head at stride {8 << number}")
        if number:
            n.route(-4)
            n.conv(width, 3, stride=2)
            n.route(-1, n.back(levels[2 - number]))
            block(width)
        n.conv(2 * width, 3)
        predict(number)


# ---- networks


def yolov2_tiny() -> Network:
    n = Network("YOLOv2-tiny, COCO (80 classes). Redmon, Farhadi: YOLO9000 (2016).", "leaky")
    n.classes = 80
    n.net(416, 64, 2, "400000,450000", 500200)
    tiny_backbone(n)
    n.conv(1024, 3)
    n.conv(512, 3)
    n.predict(5, "region", anchors=ANCHORS_V2_TINY, num=5, coords=4, softmax=1, bias_match=1, absolute=1,
              rescore=0, jitter=0.2, thresh=0.6, random=1, object_scale=5, noobject_scale=1, class_scale=1,
              coord_scale=1)  # fmt: skip
    return n


def yolov3_tiny() -> Network:
    n = Network("YOLOv3-tiny, COCO (80 classes). Redmon, Farhadi: YOLOv3 (2018).", "leaky")
    n.classes = 80
    n.net(416, 64, 2, "400000,450000", 500200)
    keys = {"anchors": ANCHORS_TINY, "num": 6, "jitter": 0.3, "ignore_thresh": 0.7, "truth_thresh": 1, "random": 1}
    tap = tiny_backbone(n)
    n.conv(1024, 3)
    n.note("head at stride 32")
    n.conv(256)
    n.conv(512, 3)
    n.predict(3, mask="3,4,5", **keys)
    n.note("head at stride 16")
    n.route(-4)
    enlarge(n, 128)
    n.route(-1, tap)
    n.conv(256, 3)
    n.predict(3, mask="1,2,3", **keys)  # the published cfg has 0,1,2, with which its published weights go wrong
    return n


def yolov3(pyramid: bool = False) -> Network:
    variant = "YOLOv3-SPP" if pyramid else "YOLOv3"
    n = Network(f"{variant}, COCO (80 classes). Redmon, Farhadi: YOLOv3 (2018).", "leaky")
    n.classes = 80
    n.net(608 if pyramid else 416, 64, 16, "400000,450000", 500200)
    v3_heads(n, darknet53(n), pyramid, ignore_thresh=0.7)
    return n


def darknet53_yolov3_voc() -> Network:
    n = Network("YOLOv3 (Darknet-53), Pascal VOC (20 classes). Redmon, Farhadi: YOLOv3 (2018).", "leaky")
    n.classes = 20
    n.net(416, 64, 16, "40000,45000", 50200)
    v3_heads(n, darknet53(n), ignore_thresh=0.5)
    return n


def mobilenet_yolov3_voc() -> Network:
    n = Network("MobileNet v1 (Howard et al. 2017) with the neck and heads of YOLOv3, Pascal VOC (20 classes).", "relu")
    n.classes = 20
    n.net(416, 64, 16, "40000,45000", 50200)
    v3_heads(n, mobilenet(n), ignore_thresh=0.5)
    return n


def yolov4(classes: int) -> Network:
    data = "COCO (80 classes)" if classes == 80 else "Pascal VOC (20 classes)"
    n = Network(f"YOLOv4 (CSPDarknet-53, SPP, PANet), {data}. Bochkovskiy, Wang, Liao (2020).", "mish")
    n.classes = classes
    if classes == 80:
        n.net(608, 64, 8, "400000,450000", 500500, momentum=0.949, learning_rate=0.0013, mosaic=1)
    else:  # darknet's advice for own classes: 2000 batches per class, steps at 80 and 90 % of them
        n.net(416, 64, 16, "32000,36000", 40000, momentum=0.949, learning_rate=0.001, mosaic=1)
    taps = cspdarknet53(n)
    n.activation = "leaky"
    n.note("spatial pyramid pooling")
    alternate(n, 512, 3)
    spp(n)
    coarse = alternate(n, 512, 3)
    keys = {"anchors": ANCHORS_V4, "num": 9, "jitter": 0.3, "ignore_thresh": 0.7, "truth_thresh": 1,
            "iou_thresh": 0.213, "cls_normalizer": 1.0, "iou_normalizer": 0.07, "iou_loss": "ciou",
            "nms_kind": "greedynms", "beta_nms": 0.6, "max_delta": 5}  # fmt: skip
    scales = (1.2, 1.1, 1.05)

    def predict(number: int) -> None:
        n.predict(3, mask=masks(number), scale_x_y=scales[number], random=1 if number == 2 else None, **keys)

    path_aggregation(n, coarse, taps, lambda width: alternate(n, width, 5), predict)
    return n


def masks(number: int) -> str:
    """The three anchors of a head, fine to coarse."""
    return ",".join(str(3 * number + i) for i in range(3))


def yolov4_csp() -> Network:
    n = Network("YOLOv4-CSP, COCO (80 classes). Wang, Bochkovskiy, Liao: Scaled-YOLOv4 (2020).", "mish")
    n.classes = 80
    n.net(512, 64, 8, "400000,450000", 500500, momentum=0.949, mosaic=1, letter_box=1, ema_alpha=0.9998)
    taps = cspdarknet53(n, plain_start=True)
    n.note("spatial pyramid pooling")
    coarse = csp_neck(n, 512, pyramid=True)
    keys = {"anchors": ANCHORS_V4, "num": 9, "jitter": 0.1, "scale_x_y": 2.0, "ignore_thresh": 0.7, "truth_thresh": 1,
            "resize": 1.5, "iou_thresh": 0.2, "iou_normalizer": 0.05, "cls_normalizer": 0.5, "iou_loss": "ciou",
            "nms_kind": "diounms", "beta_nms": 0.6, "new_coords": 1}  # fmt: skip

    def block(width: int) -> int:
        n.conv(width)
        return csp_neck(n, width)

    def predict(number: int) -> None:
        n.predict(3, activation="logistic", mask=masks(number), objectness_smooth=min(number, 1),
                  obj_normalizer=(4.0, 1.0, 0.4)[number], max_delta=(5, 5, 2)[number], **keys)  # fmt: skip

    path_aggregation(n, coarse, taps, block, predict)
    return n


def yolov4_tiny() -> Network:
    n = Network("YOLOv4-tiny, COCO (80 classes). Wang, Bochkovskiy, Liao: Scaled-YOLOv4 (2020).", "leaky")
    n.classes = 80
    n.net(416, 64, 1, "1600000,1800000", 2000200, learning_rate=0.00261)
    keys = {"anchors": ANCHORS_TINY, "num": 6, "jitter": 0.3, "scale_x_y": 1.05, "cls_normalizer": 1.0,
            "iou_normalizer": 0.07, "iou_loss": "ciou", "ignore_thresh": 0.7, "truth_thresh": 1, "random": 0,
            "resize": 1.5, "nms_kind": "greedynms", "beta_nms": 0.6}  # fmt: skip
    n.conv(32, 3, stride=2)
    n.conv(64, 3, stride=2)
    tap = 0
    for width in (64, 128, 256):
        n.note(f"cross-stage block over half of {width} channels")
        n.conv(width, 3)
        n.route(-1, groups=2, group_id=1)
        n.conv(width // 2, 3)
        n.conv(width // 2, 3)
        n.route(-1, -2)
        tap = n.conv(width)
        n.route(-6, -1)
        n.maxpool(2, 2)
    n.conv(512, 3)
    n.note("head at stride 32")
    n.conv(256)
    n.conv(512, 3)
    n.predict(3, mask="3,4,5", **keys)
    n.note("head at stride 16")
    n.route(-4)
    enlarge(n, 128)
    n.route(-1, tap)
    n.conv(256, 3)
    n.predict(3, mask="1,2,3", **keys)  # as trained and published: not 0,1,2
    return n


def small(title: str, size: int, classes: int, anchors: str, widths: Sequence[int], batches: int) -> Network:
    """The project's own small detector: cross-stage blocks in mish, SPP and two heads (strides 8 and 16) in leaky."""
    n = Network(title, "mish")
    n.classes = classes
    steps = f"{batches * 8 // 10},{batches * 9 // 10}"
    n.net(size, 32, 1, steps, batches, momentum=0.949, learning_rate=0.002, burn_in=100, mosaic=1)
    n.conv(widths[0], 3, stride=2)
    csp_stage(n, widths[1], 1, widths[1] // 2, widths[1] // 2)
    tap = csp_stage(n, widths[2], 2, widths[2] // 2, widths[2] // 2)
    csp_stage(n, widths[3], 2, widths[3] // 2, widths[3] // 2)
    n.activation = "leaky"
    n.note("spatial pyramid pooling")
    n.conv(widths[2])
    n.maxpool(3, 1)
    n.route(-2)
    n.maxpool(5, 1)
    n.route(-1, -2, -3)
    coarse = n.conv(widths[3])
    keys = {"anchors": anchors, "num": 6, "jitter": 0.2, "scale_x_y": 1.05, "ignore_thresh": 0.7, "truth_thresh": 1,
            "iou_thresh": 0.213, "cls_normalizer": 1.0, "iou_normalizer": 0.07, "iou_loss": "ciou",
            "nms_kind": "greedynms", "beta_nms": 0.6, "max_delta": 5, "random": 0}  # fmt: skip
    n.note("top-down path")
    enlarge(n, widths[2])
    n.route(tap)
    n.conv(widths[2])
    n.route(-1, -3)
    fine = n.conv(widths[2])
    n.note("head at stride 8")
    n.conv(widths[3], 3)
    n.predict(3, mask="0,1,2", **keys)
    n.note("head at stride 16")
    n.route(n.back(fine))
    n.conv(widths[2], 3, stride=2)
    n.route(-1, n.back(coarse))
    n.conv(widths[3])
    n.conv(widths[3], 3)
    n.predict(3, mask="3,4,5", **keys)
    return n


def scenes() -> Network:
    title = "Small CSP detector for the drawn scenes of `darkprune demo` (6 classes); the project's own."
    return small(title, 160, 6, "22,21, 28,28, 36,35, 43,43, 51,52, 64,63", (16, 32, 64, 128), 3000)


def cells() -> Network:
    title = "Small CSP detector for blood cells (BCCD, 3 classes; docs/RESULTS.md); the project's own."
    return small(title, 256, 3, "16,21, 34,51, 43,45, 42,57, 51,62, 86,104", (16, 32, 64, 120), 3000)


NETWORKS: dict[str, Callable[[], Network]] = {
    "yolov2-tiny": yolov2_tiny,
    "yolov3": yolov3,
    "yolov3-tiny": yolov3_tiny,
    "yolov3-spp": lambda: yolov3(pyramid=True),
    "yolov4": lambda: yolov4(80),
    "yolov4-tiny": yolov4_tiny,
    "yolov4-csp": yolov4_csp,
    "darknet53-yolov3-voc": darknet53_yolov3_voc,
    "yolov4-voc": lambda: yolov4(20),
    "mobilenet-yolov3-voc": mobilenet_yolov3_voc,
    "scenes": scenes,
    "cells": cells,
}


def main(arguments: Sequence[str]) -> None:
    folder = Path(arguments[0]) if arguments else Path(__file__).parents[1] / "cfg"
    for name, build in NETWORKS.items():
        (folder / f"{name}.cfg").write_text(str(build()), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
