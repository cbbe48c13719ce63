"""detect, eval, check and bench through the command line, on drawn scenes and on a real checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from darkprune.cli.main import main
from darkprune.data.scenes import CLASSES, draw_scene, write_scenes
from tests.assets import CHECKPOINTS, COCO_VAL, IMAGES, needs_assets

NAME = "yolo-fastest-1.1_coco"
CFG, WEIGHTS = (CHECKPOINTS / NAME / f"{NAME}.{kind}" for kind in ("cfg", "weights"))


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def pair() -> list[str]:
    return [str(CFG), str(WEIGHTS)]


@needs_assets
def test_detect_finds_the_dog(capsys: pytest.CaptureFixture[str], pair: list[str], tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    found = run_json(capsys, "detect", *pair, str(IMAGES / "dog.jpg"), "-o", str(out), "--runner", "opencv")
    (image,) = found["images"]
    names = {entry["name"] for entry in image["objects"]}
    assert "dog" in names
    (dog,) = [entry for entry in image["objects"] if entry["name"] == "dog"]
    left, top, right, bottom = dog["box"]
    assert 80 < left < 180
    assert 160 < top < 260
    assert 300 < right < 430
    assert 480 < bottom < 576
    drawn, original = cv2.imread(str(out / "dog.jpg")), cv2.imread(str(IMAGES / "dog.jpg"))
    assert drawn.shape == original.shape
    assert np.abs(drawn.astype(int) - original).max() > 100


@needs_assets
def test_detect_reads_a_video(capsys: pytest.CaptureFixture[str], pair: list[str], tmp_path: Path) -> None:
    dog = cv2.imread(str(IMAGES / "dog.jpg"))
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, dog.shape[1::-1])
    for _ in range(3):
        video.write(dog)
    video.release()
    found = run_json(capsys, "detect", *pair, str(tmp_path / "v.avi"), "-o", str(tmp_path / "out"), "--batch", "2")
    assert len(found["images"]) == 3
    assert all("dog" in {entry["name"] for entry in frame["objects"]} for frame in found["images"])
    made = cv2.VideoCapture(str(tmp_path / "out" / "v.mp4"))
    assert made.isOpened()
    assert int(made.get(cv2.CAP_PROP_FRAME_COUNT)) == 3


@needs_assets
def test_detect_skips_what_it_cannot_read(capsys: pytest.CaptureFixture[str], pair: list[str], tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(cv2.imencode(".png", draw_scene(0, 0).image)[1].tobytes())
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    assert main(["detect", *pair, str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["images"]) == 1
    assert "bad.jpg" in captured.err
    assert "1 of 2 images were skipped" in captured.err
    assert main(["detect", *pair, str(tmp_path), "--strict"]) == 1


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, draw_scene(0, 0).image)[1].tobytes())
    return path


SCENES = ["builtin:scenes", "builtin:scenes"]


def test_detect_gives_every_image_a_file_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "A.bmp", "deep/a.png"):
        picture(tmp_path / "in" / name)
    out = tmp_path / "out"
    found = run_json(capsys, "detect", *SCENES, str(tmp_path / "in"), "-o", str(out))
    assert len(found["images"]) == 4
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.jpg")} == {
        "A.jpg", "a.jpg.jpg", "a.png.jpg", "deep/a.jpg"
    }  # fmt: skip
    assert sorted(found["drawn"]) == sorted(str(path) for path in out.rglob("*.jpg"))


def test_a_pruned_network_that_finds_nothing_is_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert main(["prune", *SCENES, "--ratio", "0.6", "--force", "-o", str(tmp_path / "slim")]) == 0
    capsys.readouterr()
    slim = [str(tmp_path / "slim" / name) for name in ("scenes.cfg", "scenes.weights")]
    assert main(["detect", *slim, str(tmp_path / "a.png")]) == 0
    assert "nothing was found in 1 images, and the network was pruned" in capsys.readouterr().err
    assert main(["detect", *SCENES, str(tmp_path / "a.png"), "--thresh", "1"]) == 0
    assert "was pruned" not in capsys.readouterr().err


def test_detect_takes_a_list(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\n")
    assert len(run_json(capsys, "detect", *SCENES, str(tmp_path / "list.txt"))["images"]) == 1


def test_detect_overwrites_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    before = picture(photos / "a.jpg").read_bytes()
    for source in (photos, photos / "a.jpg"):
        assert main(["detect", *SCENES, str(source), "-o", str(photos), "--overwrite"]) == 1
        assert "holds the input" in capsys.readouterr().err
    assert photos.joinpath("a.jpg").read_bytes() == before
    out = tmp_path / "out"
    assert main(["detect", *SCENES, str(photos), "-o", str(out)]) == 0
    (out / "mine.txt").write_text("mine")
    capsys.readouterr()
    assert main(["detect", *SCENES, str(photos), "-o", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["detect", *SCENES, str(photos), "-o", str(out), "--overwrite"]) == 0
    assert {path.name for path in out.iterdir()} == {"a.jpg", "mine.txt"}


def test_detect_draws_names_that_are_not_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = tmp_path / "x.names"
    names.write_bytes("\n".join(["Männchen", "羊", "a\x1b[31m", "d", "e", "f"]).encode("gbk", "replace") + b"\xff\n")
    out = tmp_path / "out"
    arguments = [*SCENES, str(picture(tmp_path / "a.png")), "--names", str(names), "-o", str(out), "--thresh", "0.01"]
    assert run_json(capsys, "detect", *arguments)["images"][0]["objects"]
    assert (out / "a.jpg").exists()


def test_detect_on_nothing_readable_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"not a picture")
    assert main(["detect", *SCENES, str(tmp_path), "-o", str(tmp_path / "out")]) == 1
    assert "not one of its 2 images can be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_boxes_are_drawn_on_the_picture_as_it_was_seen(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    upright = cv2.imencode(".jpg", draw_scene(0, 0).image[:, :120])[1].tobytes()
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    turned = upright[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + upright[2:]
    (tmp_path / "a.jpg").write_bytes(turned)
    (image,) = run_json(capsys, "detect", *SCENES, str(tmp_path / "a.jpg"), "-o", str(tmp_path / "out"))["images"]
    assert (image["width"], image["height"]) == (160, 120)
    assert cv2.imread(str(tmp_path / "out" / "a.jpg")).shape[:2] == (120, 160)


@needs_assets
@pytest.mark.parametrize("argument", ["nowhere.jpg", "empty"])
def test_detect_without_images(
    capsys: pytest.CaptureFixture[str], pair: list[str], tmp_path: Path, argument: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["detect", *pair, str(tmp_path / argument)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@needs_assets
def test_eval_has_the_figures(capsys: pytest.CaptureFixture[str], pair: list[str], tmp_path: Path) -> None:
    images = sorted((COCO_VAL / "images").glob("**/*.jpg"))[:24]
    listed = tmp_path / "some.txt"
    listed.write_text("".join(f"{path}\n" for path in images), encoding="utf-8")
    names = str(COCO_VAL / "coco.names")
    found = run_json(capsys, "eval", *pair, "--data", str(listed), "--names", names)
    assert found["images"] == 24
    assert 0 < found["map75"] <= found["map50"] <= 1
    assert 0 < found["map"] < found["map50"]
    assert len(found["per_class"]) == 80
    assert found["per_class"][0]["name"] == "person"


def test_check_finds_nothing_wrong_with_scenes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = write_scenes(tmp_path / "scenes", 6, 3)
    found = run_json(capsys, "check", "--data", str(data), "--cfg", "builtin:scenes")
    assert found == {"form": ["a .data file"], "images": {"train": 6, "valid": 3}, "problems": [], "warnings": []}
    label = next((tmp_path / "scenes" / "train").glob("*.txt"))
    label.write_text(f"{len(CLASSES)} 0.5 0.5 0.1 0.1\n", encoding="utf-8")
    assert main(["check", "--data", str(data), "--cfg", "builtin:scenes"]) == 1
    assert label.name in capsys.readouterr().out


def test_scenes_are_the_same_for_the_same_seed() -> None:
    first, again, other = draw_scene(3, 5), draw_scene(3, 5), draw_scene(4, 5)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, other.image)
    scenes = [draw_scene(0, number) for number in range(60)]
    assert {label for scene in scenes for label in scene.classes.tolist()} == set(range(len(CLASSES)))
    boxes = np.concatenate([scene.boxes for scene in scenes])
    assert (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] - boxes[:, 2:] / 2 >= -1e-9).all()
    assert (boxes[:, :2] + boxes[:, 2:] / 2 <= 1 + 1e-9).all()


@needs_assets
def test_bench_compares_two_pairs(capsys: pytest.CaptureFixture[str], pair: list[str], tmp_path: Path) -> None:
    assert main(["prune", *pair, "--target-macs", "0.5", "--force", "-o", str(tmp_path / "slim")]) == 0
    capsys.readouterr()
    slim = [str(tmp_path / "slim" / f"{NAME}.{kind}") for kind in ("cfg", "weights")]
    found = run_json(
        capsys,
        "bench",
        *pair,
        "--against",
        *slim,
        "--runs",
        "3",
        "--warmup",
        "1",
        "--size",
        "160",
        "--runner",
        "opencv",
    )
    assert [network["runs"] for network in found["networks"]] == [3, 3]
    assert abs(found["gain"]["operations_saved"] - 0.5) < 0.02
    gain = found["gain"]
    assert gain["speed_up_range"][0] <= gain["speed_up"] <= gain["speed_up_range"][1]
    assert abs(gain["time_saved"] - (1 - 1 / gain["speed_up"])) < 2e-4
    assert abs(gain["share"] - gain["time_saved"] / gain["operations_saved"]) < 2e-3
    first = found["networks"][0]
    assert first["min_ms"] <= first["median_ms"] <= first["p90_ms"] <= first["p99_ms"]
    assert first["layers_ms"]
    assert main(["bench", *pair, "--runs", "1", "--warmup", "0"]) == 0
    assert "where the time goes" in capsys.readouterr().out
