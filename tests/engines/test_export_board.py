"""The scripts of a kit from end to end, against the fake of every generation, compared with darkprune's evaluation."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from conftest import GENERATIONS, Machine, write_kit

from darkprune.data import images
from darkprune.evaluation import heads as evaluation_heads
from darkprune.evaluation import nms as evaluation_nms
from darkprune.kit.board.runtime import RuntimeFailure
from darkprune.kit.board.runtime.model import load_model
from darkprune.kit.board.runtime.pictures import Camera, csi_pipeline
from tests.engines.models import HEADS, INPUT, OUTPUTS, SIZE, description

Make = Callable[..., Path]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a script of a kit as `python3 script.py arguments` would."""

    def forget() -> None:
        for name in [name for name in sys.modules if name == "runtime" or name.startswith("runtime.")]:
            del sys.modules[name]

    def call(script: Path, *arguments: object) -> tuple[int, str, str]:
        forget()
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(script), run_name="__main__")
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    yield call
    forget()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), cv2.resize(pixels, (100, 80)))
    return path


@pytest.fixture
def kit(tmp_path: Path, onnx_file: Make) -> Path:
    return write_kit(tmp_path / "kit", onnx_file(), description(), "jetson-nano").folder


def expected(path: Path, source: Path, letterbox: bool = False) -> list[tuple[int, float, list[float]]]:
    """What darkprune itself finds: onnxruntime, the evaluation's decoding and suppression."""
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    pixels = images.read_image(path)
    planes = (images.letterbox if letterbox else images.resize)(pixels, SIZE, SIZE)
    outputs = session.run(list(OUTPUTS), {"input": planes[None]})
    found = evaluation_heads.decode(HEADS, outputs, 0.25)
    if letterbox:
        sizes = np.array([[pixels.shape[1], pixels.shape[0]]] * len(found))
        boxes = evaluation_heads.correct_letterbox(found.boxes, sizes, SIZE, SIZE)
        found = evaluation_heads.Candidates(found.image, boxes, found.objectness, found.scores)
    kept = evaluation_nms.suppress(found, "greedynms", 0.6)
    rows = zip(kept.classes.tolist(), kept.scores.tolist(), kept.boxes.tolist(), strict=True)
    return sorted(rows, key=lambda row: (row[0], -row[1]))


def told(path: Path, index: int = 0) -> list[tuple[int, float, list[float]]]:
    objects = json.loads(path.read_text())[index]["objects"]
    keys = ("center_x", "center_y", "width", "height")
    rows = [(o["class_id"], o["confidence"], [o["relative_coordinates"][key] for key in keys]) for o in objects]
    return sorted(rows, key=lambda row: (row[0], -row[1]))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_three_commands(
    generation: str, machine: Machine, run: Run, kit: Path, picture: Path, tmp_path: Path, onnx_file: Make
) -> None:
    trt = machine.install(generation)
    code, out, err = run(kit / "build_engine.py")
    assert (code, err) == (0, "")
    assert f"TensorRT {trt.__version__} on Fake GPU: model.onnx in fp32" in out
    assert re.search(r"model\.engine: 5 layers, built in \d+ s", out)
    assert f"{OUTPUTS[0]}: largest deviation 0.0e+00 of its range" in out
    facts = json.loads((kit / "model.engine.json").read_text())
    assert (facts["tensorrt"], facts["gpu"], facts["precision"]) == (trt.__version__, "Fake GPU", "fp32")
    assert (kit / "timing.cache").is_file()

    code, out, err = run(kit / "detect.py", picture, "--json", tmp_path / "found.json", "--out", tmp_path / "drawn")
    assert (code, err) == (0, "")
    wanted = expected(picture, onnx_file())
    assert len(wanted) > 5
    assert told(tmp_path / "found.json") == wanted
    assert f"picture.png: {len(wanted)} objects in " in out
    assert out.count("left_x") == len(wanted)
    assert cv2.imread(str(tmp_path / "drawn" / "picture.jpg")).shape == (80, 100, 3)

    code, out, err = run(
        kit / "bench.py", "--runs", 20, "--warmup", 2, "--layers", 3, "--image", picture, "--json", tmp_path / "b.json"
    )
    assert (code, err) == (0, "")
    assert re.search(r"engine: median \d+\.\d\d ms, p90 \d+\.\d\d ms, p99 \d+\.\d\d ms, \d+\.\d images/s", out)
    assert re.search(r"1\.250 ms  33\.3 %  " + OUTPUTS[1], out)
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["engine"]["median_ms"] <= report["engine"]["p90_ms"] <= report["engine"]["p99_ms"]
    assert (report["batch"], report["tensorrt"]) == (1, trt.__version__)
    assert machine.cudart.leaks() == 0


@pytest.mark.parametrize("generation", ["8.2", "10.3"])
def test_letterbox(generation: str, machine: Machine, run: Run, picture: Path, tmp_path: Path, onnx_file: Make) -> None:
    machine.install(generation)
    source = onnx_file()
    folder = write_kit(tmp_path / "k", source, description(input=INPUT._replace(letterbox=True)), "orin").folder
    assert run(folder / "build_engine.py")[0] == 0
    assert run(folder / "detect.py", picture, "--json", tmp_path / "found.json")[0] == 0
    assert told(tmp_path / "found.json") == expected(picture, source, letterbox=True)


def test_a_fixed_batch_is_filled_up(machine: Machine, run: Run, picture: Path, tmp_path: Path, onnx_file: Make) -> None:
    machine.install("8.2")
    folder = write_kit(tmp_path / "k", onnx_file("four.onnx", batch=4), description(), "jetson-nano").folder
    assert run(folder / "build_engine.py")[0] == 0
    assert run(folder / "detect.py", picture, "--json", tmp_path / "found.json")[0] == 0
    wanted = expected(picture, onnx_file())
    found = told(tmp_path / "found.json")
    assert [row[0] for row in found] == [row[0] for row in wanted]
    np.testing.assert_allclose([row[1] for row in found], [row[1] for row in wanted], rtol=1e-4)
    assert run(folder / "bench.py", "--runs", 3, "--warmup", 0, "--json", tmp_path / "b.json")[0] == 0
    assert json.loads((tmp_path / "b.json").read_text())["batch"] == 4


def test_half_and_int8(machine: Machine, run: Run, picture: Path, tmp_path: Path, onnx_file: Make) -> None:
    trt = machine.install("8.5")
    half = write_kit(
        tmp_path / "h", onnx_file("h.onnx", half=True), description(precision="fp16", file_precision="fp16"), "orin"
    )
    assert run(half.folder / "build_engine.py")[0] == 0
    assert run(half.folder / "detect.py", picture)[0] == 0
    assert "IBuilderConfig.set_flag(FP16)" in trt._calls

    (tmp_path / "cache").write_bytes(b"ranges")
    int8 = write_kit(
        tmp_path / "i", onnx_file(), description(precision="int8"), "orin", calibration_cache=tmp_path / "cache"
    ).folder
    assert run(int8 / "build_engine.py")[0] == 0
    assert "calibration from a cache of 6 bytes" in trt._calls
    (int8 / "calibration.cache").write_text("TRT-8500-EntropyCalibration2\n")  # made for another JetPack
    assert run(int8 / "build_engine.py")[0] == 0
    assert (int8 / "calibration.cache").read_text() == trt._calibration.decode() != "TRT-8500-EntropyCalibration2\n"
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(picture.read_bytes())
    code, out, _ = run(int8 / "build_engine.py", "--calibrate", folder)
    assert code == 0
    assert "calibration with 3 batches of 1" in trt._calls
    assert (int8 / "calibration.cache").read_text().startswith("TRT-")
    assert "largest deviation" in out


def test_folders_and_videos(machine: Machine, run: Run, kit: Path, picture: Path, tmp_path: Path) -> None:
    machine.install("8.2")
    run(kit / "build_engine.py")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(picture.read_bytes())
    code, out, _ = run(kit / "detect.py", folder, "--limit", 2, "--json", tmp_path / "found.json")
    assert code == 0
    assert len(json.loads((tmp_path / "found.json").read_text())) == 2
    assert out.count("objects in") == 2

    video = tmp_path / "street.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for index in range(4):
        writer.write(np.full((64, 96, 3), 60 * index, np.uint8))
    writer.release()
    code, out, _ = run(kit / "detect.py", video, "--out", tmp_path / "frames", "--thresh", 0.6, "--nms", 0.3)
    assert code == 0
    assert out.count("street.avi#") == 4
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [f"frame{i:06d}.jpg" for i in range(4)]


def test_nothing_is_overwritten(machine: Machine, run: Run, kit: Path, picture: Path, tmp_path: Path) -> None:
    machine.install("8.2")
    run(kit / "build_engine.py")
    folder, drawn, found = tmp_path / "pictures", tmp_path / "drawn", tmp_path / "found.json"
    folder.mkdir()
    for name in ("a.png", "a.jpg", "A.bmp"):
        (folder / name).write_bytes(picture.read_bytes())
    for out in (folder, folder / "..", tmp_path):
        code, _, err = run(kit / "detect.py", folder, "--out", out, "--overwrite")
        assert code == 1
        assert "holds what is read; choose another --out" in err
    assert run(kit / "detect.py", folder, "--out", drawn, "--json", found)[0] == 0
    assert sorted(path.name for path in drawn.iterdir()) == ["A.jpg", "a.jpg.jpg", "a.png.jpg"]
    for arguments in (["--out", drawn], ["--json", found]):
        code, _, err = run(kit / "detect.py", folder, *arguments)
        assert code == 1
        assert "give --overwrite" in err
    assert "give --overwrite" in run(kit / "bench.py", "--json", found)[2]
    precious = tmp_path / "precious.jpg"
    precious.write_text("mine")
    (drawn / "A.jpg").unlink()
    (drawn / "A.jpg").symlink_to(precious)
    (drawn / "note").write_text("mine")
    code, _, err = run(kit / "detect.py", folder, "--out", drawn, "--json", found, "--overwrite")
    assert code == 1
    assert "A.jpg: is a link, a pipe or a device, which is never replaced" in err
    assert (drawn / "A.jpg").is_symlink()
    (drawn / "A.jpg").unlink()
    assert run(kit / "detect.py", folder, "--out", drawn, "--json", found, "--overwrite")[0] == 0
    assert precious.read_text() == (drawn / "note").read_text() == "mine"
    (tmp_path / "linked.engine").symlink_to(precious)
    for option in ("--output", "--timing-cache"):
        assert "never replaced" in run(kit / "build_engine.py", option, tmp_path / "linked.engine")[2]
    assert precious.read_text() == "mine"
    (tmp_path / "link").symlink_to(drawn)
    assert "is not a folder" in run(kit / "detect.py", folder, "--out", tmp_path / "link", "--overwrite")[2]
    assert all(path.read_bytes() == picture.read_bytes() for path in folder.iterdir())


def test_the_camera_pipeline() -> None:
    assert csi_pipeline(1, Camera(1920, 1080, 25, 2)) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM), width=(int)1920, height=(int)1080, "
        "format=(string)NV12, framerate=(fraction)25/1 ! nvvidconv flip-method=2 ! "
        "video/x-raw, format=(string)BGRx ! videoconvert ! video/x-raw, format=(string)BGR ! "
        "appsink max-buffers=1 drop=true sync=false"
    )


def test_cameras(machine: Machine, run: Run, kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[object, ...]] = []

    class Capture:
        def __init__(self, *how: object) -> None:
            opened.append(how)
            self.left = 3

        def isOpened(self) -> bool:
            return True

        def set(self, key: int, value: float) -> None:
            opened.append((key, value))

        def read(self) -> tuple[bool, np.ndarray]:
            self.left -= 1
            return self.left >= 0, np.zeros((48, 64, 3), np.uint8)

        def release(self) -> None:
            opened.append(("released",))

    machine.install("8.2")
    run(kit / "build_engine.py")
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    code, out, _ = run(kit / "detect.py", "csi:1", "--size", "640x480", "--fps", 15)
    assert code == 0
    assert out.count("csi:1#") == 3
    assert opened == [(csi_pipeline(1, Camera(640, 480, 15, 0)), cv2.CAP_GSTREAMER), ("released",)]
    opened.clear()
    assert run(kit / "detect.py", "usb:0", "--limit", 1)[0] == 0
    assert opened[0] == (0,)
    assert opened[-1] == ("released",)


class TestFailures:
    def test_before_the_engine_is_built(self, machine: Machine, run: Run, kit: Path, picture: Path) -> None:
        machine.install("8.2")
        for script in ("detect.py", "bench.py"):
            code, out, err = run(kit / script, *([picture] if script == "detect.py" else []))
            assert (code, out) == (1, "")
            assert err == f"error: {kit}/model.engine: not there yet, run build_engine.py first\n"

    def test_without_tensorrt(self, machine: Machine, run: Run, kit: Path) -> None:
        machine.remove()
        code, _, err = run(kit / "build_engine.py")
        assert code == 1
        assert err.startswith("error: tensorrt: Python cannot import it")
        assert err.count("\n") == 1

    def test_an_engine_of_another_board(self, machine: Machine, run: Run, kit: Path, picture: Path) -> None:
        machine.install("8.2", gpu="NVIDIA Tegra X1")
        run(kit / "build_engine.py")
        machine.install("8.2", gpu="NVIDIA Tegra X2")
        _, _, err = run(kit / "detect.py", picture)
        assert "built for NVIDIA Tegra X1 (5.3), here is NVIDIA Tegra X2 (5.3): build it again" in err
        machine.install("8.5", gpu="NVIDIA Tegra X1")
        _, _, err = run(kit / "detect.py", picture)
        assert "built by TensorRT 8.2.1.8, here is 8.5.2.2: build it again" in err

    def test_a_changed_network(self, machine: Machine, run: Run, kit: Path, picture: Path, onnx_file: Make) -> None:
        machine.install("8.2")
        run(kit / "build_engine.py")
        write_kit(kit, onnx_file(producer="darkprune again"), description(), "jetson-nano", overwrite=True)
        _, _, err = run(kit / "detect.py", picture)
        assert "made from another ONNX file, run build_engine.py again" in err
        (kit / "model.onnx").write_bytes(b"cut short")
        _, _, err = run(kit / "build_engine.py")
        assert "model.onnx: not the file that model.json describes, copy the kit again" in err

    def test_a_wrong_engine_is_noticed(self, machine: Machine, run: Run, kit: Path) -> None:
        machine.install("8.2")
        with np.load(kit / "reference.npz") as arrays:
            changed = dict(arrays)
        changed["output0"] = changed["output0"] + 1
        np.savez_compressed(kit / "reference.npz", **changed)
        code, _, err = run(kit / "build_engine.py")
        assert code == 1
        assert "the engine's numbers are off by" in err
        assert run(kit / "build_engine.py", "--precision", "fp16")[0] == 0  # only told: FP16 is off by nature

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["none.jpg"], "none.jpg: cannot be read (No such file or directory)"),
            (["none"], "none: no such picture, folder or video; cameras are csi:0 and usb:0"),
            (["csi:x"], "csi:x: name the camera by number"),
            (["usb:²"], "usb:²: name the camera by number"),
            (["usb:" + "9" * 5000], "usb:999"),
            (["x.jpg", "--size", "²x1"], "--size ²x1: write it as 1280x720"),
            (["x.jpg", "--size", "9" * 5000 + "x1"], "--size 999"),
            (["csi:0"], "csi:0: does not open: a CSI camera needs the OpenCV of JetPack"),
            (["x.jpg", "--size", "big"], "--size big: write it as 1280x720"),
        ],
    )
    def test_sources(self, arguments: list[str], reason: str, machine: Machine, run: Run, kit: Path) -> None:
        machine.install("8.2")
        run(kit / "build_engine.py")
        code, _, err = run(kit / "detect.py", *arguments)
        assert code == 1
        assert reason in err.splitlines()[-1]

    def test_names_of_pictures_that_are_no_text(
        self, machine: Machine, run: Run, kit: Path, picture: Path, tmp_path: Path
    ) -> None:
        machine.install("8.2")
        run(kit / "build_engine.py")
        folder = tmp_path / "pictures"
        folder.mkdir()
        names = [b"bl\xfcte.png", b"\xb4\xb3.png", b"a\x1b[31m\nb.png"]
        for name in names:
            shutil.copy(picture, folder / os.fsdecode(name))
        code, out, err = run(kit / "detect.py", folder, "--out", tmp_path / "drawn", "--json", tmp_path / "found.json")
        assert (code, err) == (0, "")
        assert "\x1b" not in out
        assert out.count(" objects in ") == len(names)
        assert sorted(os.listdir(os.fsencode(tmp_path / "drawn"))) == sorted(
            name.replace(b".png", b".jpg") for name in names
        )
        assert len(json.loads((tmp_path / "found.json").read_text())) == len(names)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name here")
    def test_files_that_never_end_or_are_too_large(self, machine: Machine, run: Run, kit: Path, tmp_path: Path) -> None:
        machine.install("8.2")
        run(kit / "build_engine.py")
        os.mkfifo(tmp_path / "a.jpg")
        (tmp_path / "empty.jpg").touch()
        assert "a.jpg: not a file" in run(kit / "detect.py", tmp_path / "a.jpg")[2]
        assert "empty.jpg: not a picture" in run(kit / "detect.py", tmp_path / "empty.jpg")[2]
        with (kit / "model.engine.json").open("r+b") as file:
            file.truncate(17 << 20)
        assert "model.engine.json: too large" in run(kit / "bench.py")[2]

    def test_broken_descriptions(self, machine: Machine, run: Run, kit: Path) -> None:
        machine.install("8.2")
        run(kit / "build_engine.py")
        facts = json.loads((kit / "model.engine.json").read_text())
        for value in ("a\n\x1b[31m" + 3000 * "b", [1, "\n"]):
            (kit / "model.engine.json").write_text(json.dumps({**facts, "gpu": value}))
            code, _, err = run(kit / "bench.py")
            assert code == 1
            assert "built for" in err
            assert err.count("\n") == 1
            assert len(err) < 1100
            assert "\x1b" not in err
        (kit / "model.engine.json").write_text("[" * 100_000)
        assert "not JSON" in run(kit / "bench.py")[2]
        text = (kit / "model.json").read_text()
        for content, reason in (("{", "not JSON"), (text.replace('"format": 1', '"format": 2'), "not of format 1")):
            (kit / "model.json").write_text(content)
            code, _, err = run(kit / "build_engine.py")
            assert code == 1
            assert reason in err
        whole = json.loads(text)
        inner = [(key,) for key in whole if key not in ("made_by", "target", "format")]
        inner += [("input", key) for key in whole["input"]] + [("detection", key) for key in whole["detection"]]
        inner += [("heads", 0, key) for key in whole["heads"][0]]
        for *path, key in inner:
            for damage in (None, {}, [[]], -1):
                damaged = part = json.loads(text)
                for step in path:
                    part = part[step]
                part[key] = damage
                if damage == -1 and key in ("threshold", "nms_threshold", "nms_beta", "scale_x_y"):
                    continue  # a number all the same
                (kit / "model.json").write_text(json.dumps(damaged))
                with pytest.raises(RuntimeFailure, match=r"model\.json: .*copy the kit again$"):
                    load_model(str(kit))
        (kit / "model.json").unlink()
        assert "model.json: cannot be read" in run(kit / "build_engine.py")[2]

    def test_arguments(self, machine: Machine, run: Run, kit: Path) -> None:
        machine.install("8.2")
        assert run(kit / "bench.py", "--runs", 0)[2] == "error: --runs 0: at least 1\n"
        assert run(kit / "build_engine.py", "--precision", "int4")[0] == 2
        _, _, err = run(kit / "build_engine.py", "--calibrate", kit / "none", "--precision", "int8")
        assert "none: cannot be read" in err

    def test_ctrl_c(self, machine: Machine, run: Run, kit: Path) -> None:
        trt = machine.install("10.3")

        def stop(*anything: object) -> None:
            raise KeyboardInterrupt

        trt.init_libnvinfer_plugins = stop
        assert run(kit / "build_engine.py")[::2] == (130, "stopped\n")


def test_as_a_program_of_its_own(kit: Path, picture: Path) -> None:
    """A real process, so that nothing of this one helps: only the parts that need no TensorRT."""
    for script in ("build_engine.py", "detect.py", "bench.py"):
        command = [sys.executable, "-I", str(kit / script), "--help"]
        # -I also takes the script's folder off the path, so it is put back by hand as Python does
        code = f"import sys; sys.path.insert(0, {str(kit)!r}); sys.argv = {command[2:]!r}; "
        code += f"import runpy; runpy.run_path({command[2]!r}, run_name='__main__')"
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "usage:" in done.stdout
