"""export, engine and kit through the command line: forms, precisions, bad input, and a real checkpoint to a kit."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import darkprune as dp
from darkprune import targets
from darkprune.cli.main import main
from darkprune.kit.board.runtime.command import MODULES

sys.path.append(str(Path(__file__).parents[1] / "engines"))
from fake_cudart import FakeCudart
from fake_tensorrt import FakeTensorRT

from tests.assets import CHECKPOINTS, IMAGES, needs_assets

REAL = "yolo-fastest-1.1_coco"

TINY = """[net]
width=64
height=32
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky

[convolutional]
filters=16
size=1
stride=1
pad=1
activation=linear

[yolo]
mask=0,1
anchors=10,14, 23,27
classes=3
num=2
scale_x_y=1.05
nms_kind=greedynms
beta_nms=0.6
"""
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)


@pytest.fixture
def pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    (tmp_path / "tiny.cfg").write_text(TINY, encoding="utf-8")
    (tmp_path / "tiny.names").write_text("red\ngreen\nblue\n", encoding="utf-8")
    assert main(["init", str(tmp_path / "tiny.cfg"), "-o", str(tmp_path / "tiny.weights"), "--vary"]) == 0
    capsys.readouterr()
    return [str(tmp_path / "tiny.cfg"), str(tmp_path / "tiny.weights")]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(3)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (32, 64, 3), np.uint8))
    return folder


@pytest.fixture
def run_json(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Any:
        status = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return json.loads(captured.out)

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that has to fail with one line, and returns the line."""

    def run(*arguments: object, status: int = 1) -> str:
        assert main([*map(str, arguments)]) == status
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1, captured.err
        assert captured.out == ""
        return captured.err

    return run


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT 10.3 on a pretended GPU."""
    cudart = FakeCudart("Orin")
    fake = FakeTensorRT("10.3", cudart)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)

    real = ctypes.CDLL

    def load(name: Any, *rest: Any, **more: Any) -> Any:  # torch may be imported for the first time meanwhile
        return cudart if "libcudart" in str(name) else real(name, *rest, **more)

    monkeypatch.setattr(ctypes, "CDLL", load)
    return fake


class TestExport:
    @pytest.mark.parametrize("form", ["heads", "boxes", "deepstream", "nms", "efficientnms"])
    @pytest.mark.parametrize("batch", ["1", "2", "dynamic"])
    def test_forms_agree_with_torch(
        self, run_json: Run, pair: list[str], tmp_path: Path, form: str, batch: str
    ) -> None:
        out = tmp_path / "x.onnx"
        made = run_json("export", *pair, "-o", out, "--target", "orin", "--outputs", form, "--batch", batch)
        assert made["compared_with"] == "torch"
        assert made["deviations"]
        assert max(made["deviations"].values()) < 1e-4
        assert made["form"] == form
        assert made["bytes"] == out.stat().st_size
        assert made["inputs"] == {"input": ["batch" if batch == "dynamic" else int(batch), 3, 32, 64]}
        facts = {entry.key: entry.value for entry in onnx.load(str(out)).metadata_props}
        assert json.loads(facts["names"]) == ["red", "green", "blue"]

    def test_opset_and_ir_of_the_target(self, run_json: Run, pair: list[str], tmp_path: Path) -> None:
        made = run_json("export", *pair, "-o", tmp_path / "n.onnx", "--target", "jetson-nano")
        assert (made["opset"], made["target"]) == (13, "jetson-nano")
        assert made["ir"] <= targets.target("jetson-nano").ir
        made = run_json("export", *pair, "-o", tmp_path / "o.onnx", "--target", "jetson-nano", "--opset", 11)
        assert made["opset"] == 11

    def test_fp16(self, run_json: Run, pair: list[str], tmp_path: Path) -> None:
        made = run_json("export", *pair, "-o", tmp_path / "x.onnx", "--fp16", "--keep-fp32", "0")
        assert made["precision"] == "fp16"
        assert 0 < max(made["deviations"].values()) < 2e-2
        halves = {t.name for t in onnx.load(str(tmp_path / "x.onnx")).graph.initializer if t.data_type == 10}
        assert any(name.startswith("001_") for name in halves)
        assert not any(name.startswith("000_") for name in halves)

    def test_int8_and_what_it_costs(
        self, run_json: Run, pair: list[str], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for picture in pictures.iterdir():
            (pictures / f"{picture.stem}.txt").write_text("0 0.5 0.5 0.5 0.5\n", encoding="utf-8")
        data = tmp_path / "some.txt"
        data.write_text("".join(f"{path}\n" for path in sorted(pictures.glob("*.png"))), encoding="utf-8")
        cache, out, names = tmp_path / "x.cache", tmp_path / "x.onnx", tmp_path / "tiny.names"
        how = ["--int8", "--calibrate", pictures, "--calibration-cache", cache, "--target", "orin"]
        made = run_json("export", *pair, "-o", out, *how, "--data", data, "--names", names, "--leave-out", "none")
        assert made["precision"] == "int8"
        assert made["operators"]["QuantizeLinear"] == made["operators"]["DequantizeLinear"] > 0
        assert any("100 % of the convolutions are INT8" in text for text in made["warnings"])
        assert made["accuracy"]["images"] == 3
        assert made["accuracy"]["text"].endswith(("leave it", "it costs little"))
        assert cache.read_text().startswith("TRT-")
        assert main([*map(str, ["export", *pair, "-o", out, *how[:3], "--overwrite", "--json"])]) == 0
        written = capsys.readouterr()
        (warning,) = json.loads(written.out)["warnings"]
        assert "left out: layers 0, 2" in warning
        assert f"warning: {warning}\n" in written.err

    @pytest.mark.parametrize("form", ["boxes", "deepstream", "nms", "efficientnms"])
    def test_int8_of_every_form_is_calibrated_before_its_heads(
        self, run_json: Run, pair: list[str], pictures: Path, tmp_path: Path, form: str
    ) -> None:
        how = ["--int8", "--calibrate", pictures, "--target", "orin", "--leave-out", "none"]
        run_json("export", *pair, "-o", tmp_path / "heads.onnx", *how)
        made = run_json("export", *pair, "-o", tmp_path / "x.onnx", *how, "--outputs", form)
        assert made["precision"] == "int8"

        def steps(name: str) -> dict[str, bytes]:
            tensors = onnx.load(str(tmp_path / name)).graph.initializer
            return {tensor.name: tensor.raw_data for tensor in tensors if tensor.name.endswith("_scale")}

        assert steps("x.onnx") == steps("heads.onnx") != {}

    def test_without_a_reference(
        self, run_json: Run, pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("darkprune.runners.exported.REFERENCES", ("nothing",))
        monkeypatch.setitem(__import__("darkprune.runners.base").runners.base.RUNNERS, "nothing", "nowhere")
        made = run_json("export", *pair, "-o", tmp_path / "x.onnx")
        assert made["compared_with"] is None
        assert "nothing is not installed" in made["skipped"]
        made = run_json("export", *pair, "-o", tmp_path / "x.onnx", "--static", "--overwrite")
        assert made["skipped"] == "--static was given"

    def test_against_opencv(
        self, run_json: Run, pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("darkprune.runners.exported.REFERENCES", ("opencv",))
        made = run_json("export", *pair, "-o", tmp_path / "x.onnx")
        assert made["compared_with"] == "opencv"
        assert max(made["deviations"].values()) < 1e-3

    def test_numbers_that_are_off(
        self, refused: Run, pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from darkprune.runners import torch_runner

        right = torch_runner._TorchNetwork.head_maps
        monkeypatch.setattr(torch_runner._TorchNetwork, "head_maps", lambda s, x: [1.01 * m for m in right(s, x)])
        out = tmp_path / "x.onnx"
        assert "is off from torch by 9.9e-03" in refused("export", *pair, "-o", out)
        assert not out.exists()
        assert not list(tmp_path.glob(".*"))

    def test_plan_of_a_pruned_pair(self, run_json: Run, pair: list[str], tmp_path: Path) -> None:
        slim = tmp_path / "slim"
        run_json("prune", *pair, "--ratio", "0.4", "--min-channels", "1", "-o", slim)
        made = run_json("export", slim / "tiny.cfg", slim / "tiny.weights", "-o", tmp_path / "x.onnx")
        assert len(made["plan_hash"]) == 64
        (tmp_path / "plan.json").write_bytes((slim / "plan.json").read_bytes())  # beside the original: not its plan
        assert run_json("export", *pair, "-o", tmp_path / "y.onnx")["plan_hash"] == ""

    def test_an_unsaved_surgery(self, pair: list[str], tmp_path: Path) -> None:
        with_names = dp.prune(dp.load(*pair), dp.PruneSettings(ratio=0.4, min_channels=1))
        file = dp.export(with_names, tmp_path / "x.onnx", dp.ExportSettings(target="jetson-nano"))
        kit = dp.write_kit(with_names, tmp_path / "kit", dp.KitSettings(target="jetson-nano"))
        with_names.save(tmp_path / "slim")
        (tmp_path / "slim" / "tiny.names").write_bytes((tmp_path / "tiny.names").read_bytes())
        saved = dp.load(tmp_path / "slim" / "tiny.cfg", tmp_path / "slim" / "tiny.weights")
        again = dp.export(saved, tmp_path / "y.onnx", dp.ExportSettings(target="jetson-nano"))
        assert again.onnx.read_bytes() == file.onnx.read_bytes() == (kit.kit / "model.onnx").read_bytes()

    def test_a_classifier(self, run_json: Run, tmp_path: Path) -> None:
        tail = "\n[avgpool]\n\n[softmax]\ngroups=1\n\n[cost]\ntype=sse\n"
        cfg = tmp_path / "c.cfg"
        cfg.write_text(TINY.partition("[yolo]")[0] + tail, encoding="utf-8")
        run_json("init", cfg, "-o", tmp_path / "c.weights")
        made = run_json("export", cfg, tmp_path / "c.weights", "-o", tmp_path / "x.onnx", "--outputs", "heads")
        assert list(made["outputs"].values()) == [[1, 16]]

    def test_report(self, pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["export", *pair, "-o", str(tmp_path / "x.onnx"), "--target", "jetson-nano"]) == 0
        out = capsys.readouterr().out
        assert "operators: Conv 3" in out
        assert "onnxruntime agrees with torch" in out
        assert out.endswith(f"next: darkprune kit {' '.join(pair)} --target jetson-nano -o kit/\n")

    def test_the_next_command_asks_for_the_same(
        self, pair: list[str], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["export", *pair, "-o", str(tmp_path / "x.onnx"), "--target", "orin", "--static", "--overwrite"]
        assert main([*command, "--int8", "--calibrate", str(pictures), "--size", "32x32", "--check", "none"]) == 0
        words = f"--target orin --size 32x32 --int8 --calibrate {pictures} -o kit/"
        assert capsys.readouterr().out.endswith(f"next: darkprune kit {' '.join(pair)} {words}\n")
        assert main([*command, "--outputs", "efficientnms"]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith(f"next: copy {tmp_path}/x.onnx to the board and run there: /usr/src/tensorrt/bin/")
        assert line.endswith("--memPoolSize=workspace:2048 --fp16 --skipInference")

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            (["--names", "two.names"], "2 class names, but the heads have 3 classes"),
            (["--target", "jetson-nano", "--opset", "17"], "opset 17: for jetson-nano darkprune writes 11 to 13"),
            (["--target", "jetson-nano", "--batch", "dynamic"], "jetson-nano kits have no open batch size"),
            (["--target", "tx2", "--int8", "--calibrate", "pictures"], "tx2 does not compute in INT8"),
            (["--int8", "--calibrate", "empty"], "empty: holds no images"),
            (["--int8", "--calibrate", "nowhere"], "nowhere: no such file or folder"),
            (["--int8", "--calibrate", "pictures", "--leave-out", "99"], "layer 99: cannot be left out"),
            (["--outputs", "efficientnms"], "no EfficientNMS plugin"),
            (["--outputs", "efficientnms", "--target", "rtx"], "rtx has no suppression; take --outputs boxes"),
            (["--outputs", "nms", "--target", "rtx"], "rtx has no suppression; take --outputs boxes"),
            (["--batch", "0"], "batch 0 is out of range"),
            (["--image", "two.names"], "two.names: is not an image"),
        ],
    )
    def test_bad_input(
        self, refused: Run, pair: list[str], pictures: Path, tmp_path: Path, how: list[str], message: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "two.names").write_text("a\nb\n", encoding="utf-8")
        before = sorted(tmp_path.rglob("*"))
        assert message in refused("export", *pair, "-o", tmp_path / "x.onnx", *how)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            (["--size", "64by32"], "--size 64by32"),
            (["--batch", "many"], "--batch many"),
            (["--int8"], "--int8 needs --calibrate DIR"),
            (["--calibrate", "x"], "--calibrate is for --int8"),
            (["--calibration-cache", "x"], "needs --calibrate DIR"),
            (["--data", "x"], "give --fp16 or --int8 too"),
            (["--data", "x", "--fp16", "--outputs", "nms"], "raw heads"),
            (["--keep-fp32", "1"], "--keep-fp32 goes with --fp16"),
            (["--fp16", "--keep-fp32", "one"], "--keep-fp32 one: give whole numbers"),
            (["--nms", "2"], "are 0 to 1"),
        ],
    )
    def test_wrong_use(self, refused: Run, pair: list[str], tmp_path: Path, how: list[str], message: str) -> None:
        assert message in refused("export", *pair, "-o", tmp_path / "x.onnx", *how, status=2)

    @needs_assets
    def test_size_that_does_not_fit(self, refused: Run, tmp_path: Path) -> None:
        pair = [CHECKPOINTS / REAL / f"{REAL}.{kind}" for kind in ("cfg", "weights")]
        line = refused("export", *pair, "-o", tmp_path / "x.onnx", "--size", "333x320")
        assert "layer 124 (route) joins maps of different sizes" in line

    def test_outputs_that_cannot_be_written(self, refused: Run, pair: list[str], tmp_path: Path) -> None:
        (tmp_path / "there.onnx").write_text("mine", encoding="utf-8")
        assert "exists; give --overwrite" in refused("export", *pair, "-o", tmp_path / "there.onnx")
        assert (tmp_path / "there.onnx").read_text() == "mine"
        assert "is a folder" in refused("export", *pair, "-o", tmp_path)
        assert "is an input" in refused("export", *pair, "-o", pair[1], "--overwrite")
        assert "cannot be written" in refused("export", *pair, "-o", tmp_path / "there.onnx" / "x.onnx")


class TestEngine:
    def test_without_tensorrt(
        self, run_json: Run, refused: Run, pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in MODULES:
            monkeypatch.setitem(sys.modules, name, None)
        run_json("export", *pair, "-o", tmp_path / "x.onnx", "--target", "jetson-nano")
        line = refused("engine", tmp_path / "x.onnx", "-o", tmp_path / "x.engine", "--fp16", "--workspace", 300)
        assert "/usr/src/tensorrt/bin/trtexec" in line
        assert "--workspace=300 --fp16 --buildOnly" in line
        line = refused("engine", tmp_path / "x.onnx", "-o", tmp_path / "x.engine", "--fp16", "--target", "orin")
        assert "--memPoolSize=workspace:2048 --fp16" in line

    def test_builds_and_compares(
        self, run_json: Run, pair: list[str], pictures: Path, tmp_path: Path, tensorrt: FakeTensorRT,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        source, engine = tmp_path / "x.onnx", tmp_path / "x.engine"
        run_json("export", *pair, "-o", source, "--target", "orin", "--batch", "dynamic")
        made = run_json(
            "engine", source, "-o", engine, "--batch", "1,2,4", "--timing-cache", tmp_path / "t", "--no-tf32"
        )
        assert engine.is_file()
        assert made["facts"]["workspace_mb"] == 2048
        assert made["facts"]["tf32"] is False
        assert max(made["deviations"].values()) < made["allowed"]
        assert (tmp_path / "t").is_file()
        run_json("engine", source, "-o", engine, "--batch", "2", "--int8", "--calibrate", pictures, "--overwrite",
                 "--calibration-cache", tmp_path / "c")  # fmt: skip
        assert json.loads((tmp_path / "x.engine.json").read_text())["precision"] == "int8"
        assert (tmp_path / "c").is_file()
        assert main(["engine", str(source), "-o", str(engine), "--batch", "1,1,1", "--fp16", "--overwrite"]) == 0
        out = capsys.readouterr().out
        assert "Conv: 3" in out
        assert "next: darkprune bench" in out

    def test_numbers_that_are_off(
        self, run_json: Run, pair: list[str], tmp_path: Path, tensorrt: FakeTensorRT,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        from darkprune.onnx.check import OutputComparison

        run_json("export", *pair, "-o", tmp_path / "x.onnx", "--target", "orin")
        monkeypatch.setattr(
            "darkprune.api.conversion.engine.compare_engine", lambda *a: OutputComparison({"x": 0.5}, 1e-2)
        )
        assert main(["engine", str(tmp_path / "x.onnx"), "-o", str(tmp_path / "x.engine")]) == 1
        assert "off from onnxruntime's by 5.0e-01" in capsys.readouterr().err

    def test_bad_input(self, run_json: Run, refused: Run, pair: list[str], tmp_path: Path) -> None:
        source, engine = tmp_path / "x.onnx", tmp_path / "x.engine"
        run_json("export", *pair, "-o", source, "--target", "orin")
        (tmp_path / "empty").mkdir()
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
        onnx.save(helper.make_model(graph, producer_name="pytorch"), str(tmp_path / "foreign.onnx"))
        assert "written by pytorch, not by darkprune" in refused("engine", tmp_path / "foreign.onnx", "-o", engine)
        assert "not an ONNX file" in refused("engine", pair[0], "-o", engine)
        assert "cannot be read" in refused("engine", tmp_path / "no.onnx", "-o", engine)
        line = refused("engine", source, "-o", engine, "--int8", "--calibrate", tmp_path / "empty")
        assert "empty: holds no images" in line
        line = refused("engine", source, "-o", engine, "--int8", "--calibration-cache", tmp_path / "no")
        assert "no such calibration cache" in line
        assert "is no folder to write to" in refused("engine", source, "-o", tmp_path / "no" / "x.engine")
        assert "--int8: the file has no Q/DQ nodes" in refused("engine", source, "-o", engine, "--int8", status=2)
        assert "go with --int8" in refused("engine", source, "-o", engine, "--calibrate", "x", status=2)
        assert "--workspace 0" in refused("engine", source, "-o", engine, "--workspace", 0, status=2)
        assert "--batch 4,2,1" in refused("engine", source, "-o", engine, "--batch", "4,2,1", status=2)
        assert "--batch 1,2" in refused("engine", source, "-o", engine, "--batch", "1,2", status=2)
        assert not engine.exists()


class TestKit:
    def test_precision_of_the_board(self, run_json: Run, pair: list[str], tmp_path: Path) -> None:
        made = run_json("kit", *pair, "--target", "jetson-nano", "-o", tmp_path / "nano")
        assert (made["precision"], made["onnx"]["precision"]) == ("fp16", "fp32")
        made = run_json("kit", *pair, "--target", "workstation", "-o", tmp_path / "pc")
        assert (made["precision"], made["onnx"]["precision"]) == ("fp16", "fp16")  # TensorRT 11 builds what it reads
        made = run_json("kit", *pair, "--target", "orin", "-o", tmp_path / "orin", "--fp32", "--no-deepstream")
        assert (made["precision"], made["onnx"]["precision"]) == ("fp32", "fp32")
        assert not any(name.startswith("deepstream/") for name in made["files"])

    def test_int8(self, run_json: Run, pair: list[str], pictures: Path, tmp_path: Path) -> None:
        made = run_json("kit", *pair, "--target", "orin", "-o", tmp_path / "k", "--int8", "--calibrate", pictures)
        assert (made["precision"], made["onnx"]["precision"]) == ("int8", "int8")
        assert "calibration.cache" not in made["files"]
        made = run_json("kit", *pair, "--target", "xavier", "-o", tmp_path / "x", "--int8", "--calibrate", pictures)
        assert (made["precision"], made["onnx"]["precision"]) == ("int8", "fp32")
        lines = (tmp_path / "x" / "calibration.cache").read_text().splitlines()
        assert lines[0] == "TRT-8500-EntropyCalibration2"
        assert not any(line.startswith(("000_", "002_")) for line in lines)  # the first and the one that the head reads
        assert any(line.startswith("001_") for line in lines)

    def test_another_size(self, run_json: Run, pair: list[str], tmp_path: Path) -> None:
        run_json("kit", *pair, "--target", "orin", "-o", tmp_path / "k", "--size", "96x64", "--thresh", "0.4")
        model = json.loads((tmp_path / "k" / "model.json").read_text())
        assert (model["input"]["width"], model["input"]["height"]) == (96, 64)
        assert model["detection"]["threshold"] == 0.4
        text = (tmp_path / "k" / "deepstream" / "model.cfg").read_text()
        assert "width=96" in text

    def test_bad_input(self, refused: Run, pair: list[str], pictures: Path, tmp_path: Path) -> None:
        kit, board = tmp_path / "k", ["--target", "jetson-nano"]
        assert "jetson-nano does not compute in INT8" in refused(
            "kit", *pair, *board, "-o", kit, "--int8", "--calibrate", pictures
        )
        assert "opset 17" in refused("kit", *pair, *board, "-o", kit, "--opset", 17)
        (tmp_path / "two").write_text("a\nb\n", encoding="utf-8")
        assert "2 class names, but the heads have 3" in refused(
            "kit", *pair, *board, "-o", kit, "--names", tmp_path / "two"
        )
        assert "holds the input" in refused("kit", *pair, *board, "-o", tmp_path, "--overwrite")
        assert "not allowed with argument --fp32" in refused(
            "kit", *pair, *board, "-o", kit, "--fp32", "--fp16", status=2
        )
        (tmp_path / "tiny.names").unlink()
        assert "no .names file beside it; give --names F with 3 names" in refused("kit", *pair, *board, "-o", kit)
        assert not kit.exists()


@needs_assets
def test_from_a_checkpoint_to_a_kit(tmp_path: Path, run_json: Run, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [str(CHECKPOINTS / REAL / f"{REAL}.{kind}") for kind in ("cfg", "weights")]
    assert main(["kit", *pair, "--target", "jetson-nano", "-o", str(tmp_path / "kit")]) == 0
    out = capsys.readouterr().out
    assert "onnxruntime agrees with torch" in out
    assert "python3 build_engine.py" in out
    kit = tmp_path / "kit"
    for name in ("README.md", "model.onnx", "model.json", "names.txt", "reference.npz", "deepstream/model.weights",
                 "deepstream/config_infer_darknet.txt", "deepstream/config_infer_onnx.txt"):  # fmt: skip
        assert (kit / name).stat().st_size > 0, name
    scripts = list(kit.rglob("*.py"))
    assert {"build_engine.py", "detect.py", "bench.py"} <= {path.name for path in scripts}
    for path in scripts:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))
    assert (kit / "names.txt").read_text().split("\n")[0] == "person"
    # what the board will run gives the detections that the pair gives
    dog = str(IMAGES / "dog.jpg")
    found = run_json("detect", pair[0], kit / "model.onnx", dog, "--runner", "onnxruntime")["images"][0]["objects"]
    expected = run_json("detect", *pair, dog, "--runner", "torch")["images"][0]["objects"]
    assert [entry["name"] for entry in found] == [entry["name"] for entry in expected]
    np.testing.assert_allclose([entry["box"] for entry in found], [entry["box"] for entry in expected], atol=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("stem", [b"bl\xfcte", b"\xb4\xb3 \x1b[31m\n"])
def test_names_that_are_not_utf8(stem: bytes, pair: list[str], pictures: Path, tmp_path: Path, run_json: Run) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/" + stem))
    odd.mkdir()
    name = os.fsdecode(stem)
    cfg, weights, images = odd / f"{name}.cfg", odd / f"{name}.weights", odd / f"{name}.d"
    for path, target in zip((cfg, weights, images), (*pair, pictures), strict=True):
        path.symlink_to(target)
    (odd / "names").write_bytes(b"bl\xfc\ngreen\nred\n")
    plain = run_json("export", *pair, "-o", tmp_path / "plain.onnx", "--names", odd / "names")
    made = run_json("export", cfg, weights, "-o", odd / f"{name}.onnx", "--names", odd / "names")
    assert made["deviations"] == plain["deviations"]
    assert (odd / f"{name}.onnx").stat().st_size == (tmp_path / "plain.onnx").stat().st_size
    run_json("export", cfg, weights, "-o", odd / f"{name}8.onnx", "--int8", "--calibrate", images)
    run_json("kit", cfg, weights, "-o", odd / f"{name}.kit", "--names", odd / "names", "--target", "jetson-nano")
    for text in ("README.md", "model.json", "names.txt", "deepstream/config_infer_darknet.txt"):
        assert "\x1b" not in (odd / f"{name}.kit" / text).read_text(encoding="utf-8")
    assert not list(odd.glob(".*"))
