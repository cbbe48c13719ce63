"""What onnxruntime finds with a file of each output form is what `darkprune detect` finds with the pair."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.cli.main import main
from darkprune.data.scenes import draw_scene
from darkprune.evaluation.heads import Candidates
from darkprune.evaluation.nms import suppress
from darkprune.onnx.session import OnnxSession
from darkprune.zoo import resolve

SIZE = 160
SCENES = 4
THRESHOLD = "0.5"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, the scenes detector with plain suppression, and what is left of it without 10 % of its channels."""
    room = tmp_path_factory.mktemp("room")
    text = resolve("builtin:scenes").read_text().replace("nms_kind=greedynms", "nms_kind=default")
    (room / "whole.cfg").write_text(text)
    (room / "whole.weights").write_bytes(resolve("builtin:scenes", "weights").read_bytes())
    (room / "pictures").mkdir()
    for number in range(SCENES):
        cv2.imwrite(str(room / "pictures" / f"{number}.png"), draw_scene(7, number, SIZE).image)
    whole = [str(room / "whole.cfg"), str(room / "whole.weights")]
    assert main(["prune", *whole, "--ratio", "0.1", "-o", str(room / "cut")]) == 0
    for suffix in ("cfg", "weights"):
        (room / "cut" / f"whole.{suffix}").rename(room / f"cut.{suffix}")
    return room


def expected(room: Path, pair: list[str], capsys: pytest.CaptureFixture[str]) -> np.ndarray:
    """What `detect` finds: image, class, score, corners in pixels."""
    capsys.readouterr()
    assert main(["detect", *pair, str(room / "pictures"), "--thresh", THRESHOLD, "--json"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    return np.array([[n, o["class"], o["score"], *o["box"]] for n, i in enumerate(images) for o in i["objects"]])


def tensors(room: Path, pair: list[str], form: str) -> list[dict[str, np.ndarray]]:
    """What onnxruntime makes of each picture."""
    path = room / "x.onnx"
    limits = ["--thresh", THRESHOLD, "--overwrite"]
    assert main(["export", *pair, "--outputs", form, "-o", str(path), *limits]) == 0
    pictures = [cv2.imread(str(room / "pictures" / f"{n}.png"))[..., ::-1] for n in range(SCENES)]
    planes = [picture.transpose(2, 0, 1)[None].astype(np.float32) / 255 for picture in pictures]
    return [OnnxSession(path).run(values) for values in planes]


def suppressed(number: int, boxes: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    """Suppression outside the file, of boxes (n, 4) as corners in pixels and scores (n, classes)."""
    scores = np.where(scores > float(THRESHOLD), scores, 0)
    low, high = boxes[:, :2], boxes[:, 2:]
    centred = np.concatenate([(low + high) / 2, high - low], axis=1).astype(np.float32)
    found = suppress(Candidates(np.full(len(boxes), number), centred, scores.max(axis=1), scores))
    half = found.boxes[:, 2:] / 2
    corners = np.concatenate([found.boxes[:, :2] - half, found.boxes[:, :2] + half], axis=1)
    return np.column_stack([found.image, found.classes, found.scores, corners]).tolist()  # type: ignore[no-any-return]


def found_in(form: str, outputs: list[dict[str, np.ndarray]]) -> np.ndarray:
    rows: list[list[float]] = []
    for number, values in enumerate(outputs):
        if form == "boxes":
            rows += suppressed(number, values["boxes"][0] * SIZE, values["scores"][0])
        elif form == "deepstream":
            table = values["output"][0]
            scores = np.zeros((len(table), 6), np.float32)
            np.put_along_axis(scores, table[:, 5:].astype(int), table[:, 4:5], axis=1)
            rows += suppressed(number, table[:, :4], scores)
        else:
            rows += [[number, r[6], r[5], *(r[1:5] * SIZE)] for r in values["detections"]]
    return np.array(rows)


def best_classes(outputs: list[dict[str, np.ndarray]]) -> list[list[float]]:
    """What is found where every box of the `boxes` form has its best class alone."""
    rows = []
    for number, values in enumerate(outputs):
        scores = values["scores"][0]
        alone = np.where(scores == scores.max(axis=1, keepdims=True), scores, 0)
        rows += suppressed(number, values["boxes"][0] * SIZE, alone)
    return rows


def in_order(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort((*rows[:, 2:].round(2).T, rows[:, 1], rows[:, 0]))]


@pytest.mark.parametrize("form", ["heads", "boxes", "deepstream", "nms"])
@pytest.mark.parametrize("name", ["whole", "cut"])
def test_every_form_finds_what_detect_finds(
    room: Path, name: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(room / f"{name}.cfg"), str(room / f"{name}.weights")]
    wanted = expected(room, pair, capsys)
    assert len(wanted) >= SCENES
    if form == "heads":
        tensors(room, pair, form)
        found = expected(room, [pair[0], str(room / "x.onnx"), "--runner", "onnxruntime"], capsys)
    else:
        found = found_in(form, tensors(room, pair, form))
    if form == "deepstream":  # has one class per box, its best, so that fewer suppress each other
        wanted = np.array(best_classes(tensors(room, pair, "boxes")))
    wanted, found = in_order(wanted), in_order(found)
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found[:, :2], wanted[:, :2])
    np.testing.assert_allclose(found[:, 2], wanted[:, 2], atol=1e-5)
    # `detect` rounds to hundredths of a pixel and does not show what lies outside
    np.testing.assert_allclose(found[:, 3:].clip(0, SIZE), wanted[:, 3:].clip(0, SIZE), atol=0.02)
