"""From image files to figures, with runners made by hand; and the real program's figures on real images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.api.evaluate import EvaluateSettings
from darkprune.data import read_dataset
from darkprune.data.loading import InputShape
from darkprune.errors import DataError, GraphError, UsageError
from darkprune.evaluation.detector import Detector, Loading
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.evaluation.heads import Head
from darkprune.evaluation.of_graph import heads_of, input_shape, read_tree
from darkprune.graph.graph import read_graph
from darkprune.progress import ProgressEvent, reporting
from darkprune.runners.base import get_runner
from tests.assets import CHECKPOINTS, COCO_VAL, needs_assets

HEAD = Head("yolo", 2, ((32.0, 32.0),), 64, 64)


def make_set(root: Path, count: int = 5, size: tuple[int, int] = (64, 64)) -> Path:
    """White squares on black, one per image, class 0 or 1."""
    w, h = size
    for number in range(count):
        pixels = np.zeros((h, w, 3), np.uint8)
        pixels[h // 4 : h // 2, w // 4 : w // 2] = 255
        cv2.imwrite(str(root / f"{number}.png"), pixels)
        (root / f"{number}.txt").write_text(f"{number % 2} 0.375 0.375 0.25 0.25\n")
    (root / "list.txt").write_text("".join(f"{root}/{n}.png\n" for n in range(count)))
    (root / "x.data").write_text("valid=list.txt\n")
    return root / "x.data"


def seer(images: np.ndarray) -> list[np.ndarray]:
    """A network that sees the white box, and guesses class 0."""
    out = np.full((len(images), 7, 4, 4), -9.0, np.float32)
    for number, image in enumerate(images):
        ys, xs = np.nonzero(image[0] > 0.75)
        w, h = (np.ptp(xs) + 1) / 64, (np.ptp(ys) + 1) / 64
        cx, cy = (xs.min() / 64 + w / 2) * 4, (ys.min() / 64 + h / 2) * 4
        cell = out[number, :, int(cy), int(cx)]
        cell[:2] = [logit(cx % 1), logit(cy % 1)]
        cell[2:4] = [math.log(w * 2), math.log(h * 2)]
        cell[4:6] = 4
    return [out]


SEER = Detector(seer, (HEAD,), InputShape(64, 64))


def logit(value: float) -> float:
    value = min(max(value, 1e-6), 1 - 1e-6)
    return math.log(value / (1 - value))


def test_whole_way(tmp_path: Path) -> None:
    dataset = read_dataset(make_set(tmp_path))
    events: list[ProgressEvent] = []
    with reporting(events.append):
        result, found = evaluate_detector(SEER, dataset, loading=Loading(2))
    assert [(event.done, event.total) for event in events] == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert result.images == 5
    assert [row.ap for row in result.per_class] == [
        pytest.approx((1 + 2 / 3 + 3 / 5) / 3),
        0,
    ]  # found: yes no yes no yes
    assert (result.true_positives, result.false_positives, result.false_negatives) == (3, 2, 2)
    assert found.sizes.tolist() == [[64, 64]] * 5
    assert result.coco is not None
    assert result.map == result.coco.map


@pytest.mark.parametrize("size", [(128, 64), (60, 90)])
def test_letterboxed_boxes_come_back_to_the_image(tmp_path: Path, size: tuple[int, int]) -> None:
    dataset = read_dataset(make_set(tmp_path, 1, size))
    detector = replace(SEER, shape=InputShape(64, 64, letterbox=True))
    _, found = evaluate_detector(detector, dataset, coco=False)
    assert np.allclose(found.detections.boxes[0], [0.375, 0.375, 0.25, 0.25], atol=0.05)


def test_unreadable_images_do_not_count(tmp_path: Path) -> None:
    dataset = read_dataset(make_set(tmp_path))
    for number in (0, 3):
        (tmp_path / f"{number}.png").write_bytes(b"")
    result, found = evaluate_detector(SEER, dataset, loading=Loading(1))
    assert (result.images, result.skipped, result.truths) == (3, 2, 3)
    assert [problem.file.name for problem in found.problems] == ["0.png", "3.png"]
    with pytest.raises(DataError, match=r"0\.png.*is empty"):
        evaluate_detector(SEER, dataset, loading=Loading(strict=True))


def test_refusals(tmp_path: Path) -> None:
    dataset = read_dataset(make_set(tmp_path, 1))
    with pytest.raises(UsageError, match="--points 7: choose from 0, 11, 101"):
        EvaluateSettings(points=7)
    with pytest.raises(UsageError, match="--iou 50: must be at least 0 and below 1"):
        EvaluateSettings(iou=50)
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match="not one of its 1 images"):
        evaluate_detector(SEER, dataset)


def test_heads_of_a_graph(tmp_path: Path) -> None:
    file = tmp_path / "x.cfg"
    conv = "[net]\nwidth=32\nheight=64\nchannels=3\nletter_box=1\n[convolutional]\nfilters={}\nactivation=linear\n"
    file.write_text(
        conv.format(18) + "[region]\nanchors=1,2,3,4\nclasses=4\nnum=2\nsoftmax=1\ntree=" + f"{tmp_path}/t\n"
    )
    (tmp_path / "t").write_text("a -1\nb -1\nc 0\nd 0\n")
    graph = read_graph(file)
    assert heads_of(graph) == (Head("region", 4, ((1.0, 2.0), (3.0, 4.0)), 32, 64, softmax=True, tree=(-1, -1, 0, 0)),)
    assert input_shape(graph) == InputShape(32, 64, 3, True)
    (tmp_path / "t").write_text("a -1\n")
    with pytest.raises(DataError, match="has 1 classes"):
        heads_of(graph)
    for text in ("a 0\n", "a\n", "a b\n", "a -1\nb 7\n"):
        (tmp_path / "t").write_text(text)
        with pytest.raises(DataError, match=r"t:\d: "):
            read_tree(tmp_path / "t")
    file.write_text(conv.format(27) + "[Gaussian_yolo]\nclasses=18\nyolo_point=left_top\n")
    assert heads_of(read_graph(file))[0].yolo_point == "left_top"
    file.write_text(conv.format(3))
    with pytest.raises(GraphError, match="detects nothing"):
        heads_of(read_graph(file))


@pytest.mark.slow
@needs_assets
@pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromDarknet"), reason="OpenCV 5 cannot read Darknet files")
@pytest.mark.parametrize(
    ("name", "map50", "map75", "counts"),
    [
        ("yolo-fastest-1.1_coco", 0.288120, 0.095102, (616, 1033, 2003)),
        ("yolo-fastest-1.1-xl_coco", 0.387727, 0.156670, None),
    ],
)
def test_the_real_program_s_figures(name: str, map50: float, map75: float, counts: tuple[int, int, int] | None) -> None:
    """As darknet measures with images decoded by OpenCV; the counts are printed by the same run of darknet."""
    stem = CHECKPOINTS / name / name
    graph = read_graph(Path(f"{stem}.cfg"))
    network = get_runner("opencv").load(graph, Path(f"{stem}.weights"), taps=False)
    dataset = read_dataset(COCO_VAL)
    result, _ = evaluate_detector(Detector.of(graph, network.head_maps), dataset, coco=False)
    assert result.map50 == pytest.approx(map50, abs=1e-4)
    assert result.map75 == pytest.approx(map75, abs=2e-4)
    if counts is not None:
        found = (result.true_positives, result.false_positives, result.false_negatives)
        assert np.abs(np.subtract(found, counts)).max() <= 2
