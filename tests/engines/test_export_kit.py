"""A kit's folder: what is in it, what is refused, and that its scripts are Python 3.6 with JetPack's modules only."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import write_kit
from onnx import helper

from darkprune.errors import ExportError, OutputError
from darkprune.graph.graph import read_graph
from darkprune.kit.board.runtime.compare import load_reference
from darkprune.kit.board.runtime.model import load_model
from darkprune.kit.schema import describe, to_json
from darkprune.kit.writer import WrittenKit
from darkprune.targets import target
from tests.engines.models import BOARD_HEADS, CLASSES, INPUT, OUTPUTS, RULES, SIZE, description, network

Make = Callable[..., Path]
TARGETS = ("jetson-nano", "tx2", "xavier", "orin", "thor", "workstation", "rtx")
# what a JetPack 4.6 board has without installing anything
ALLOWED = {
    "argparse",
    "ctypes",
    "cv2",
    "glob",
    "hashlib",
    "importlib",
    "json",
    "numpy",
    "os",
    "re",
    "sys",
    "tempfile",
    "tensorrt",
    "threading",
    "time",
    "typing",
}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text("[net]\nwidth=64\n")
    weights.write_bytes(bytes(20))
    return cfg, weights


@pytest.fixture
def kit(tmp_path: Path, onnx_file: Make, pair: tuple[Path, Path]) -> WrittenKit:
    return write_kit(tmp_path / "kit", onnx_file(), description(), "jetson-nano", cfg=pair[0], weights=pair[1])


def scripts(kit: WrittenKit) -> list[Path]:
    return sorted(kit.folder.rglob("*.py"))


def test_files_of_a_kit(kit: WrittenKit, onnx_file: Make) -> None:
    files = {path.relative_to(kit.folder).as_posix() for path in kit.folder.rglob("*") if path.is_file()}
    assert files == set(kit.files)
    assert {name for name in files if not name.startswith("runtime/")} == {
        "README.md",
        "bench.py",
        "build_engine.py",
        "deepstream/config_infer_darknet.txt",
        "deepstream/model.cfg",
        "deepstream/model.weights",
        "detect.py",
        "model.json",
        "model.onnx",
        "names.txt",
        "reference.npz",
    }
    assert kit.remarks == ()
    assert (kit.folder / "model.onnx").read_bytes() == onnx_file().read_bytes()
    assert (kit.folder / "names.txt").read_text().split("\n") == ["thing 0", "thing 1", "thing 2", ""]


def test_description(kit: WrittenKit) -> None:
    model = json.loads((kit.folder / "model.json").read_text())
    assert model == {
        "format": 1,
        "name": "tiny",
        "made_by": model["made_by"],
        "target": "jetson-nano",
        "onnx": "model.onnx",
        "onnx_sha256": hashlib.sha256((kit.folder / "model.onnx").read_bytes()).hexdigest(),
        "input": {"name": "input", "width": SIZE, "height": SIZE, "channels": 3, "letterbox": False},
        "heads": [
            {
                "output": name,
                "kind": "yolo",
                "classes": CLASSES,
                "anchors": [[10.0, 14.0], [23.0, 27.0]],
                "scale_x_y": 1.05,
                "new_coords": False,
                "coords": 4,
                "softmax": False,
                "yolo_point": "center",
            }
            for name in OUTPUTS
        ],
        "names": ["thing 0", "thing 1", "thing 2"],
        "detection": {"threshold": 0.25, "nms": "greedynms", "nms_threshold": 0.45, "nms_beta": 0.6},
        "precision": "fp32",
        "file_precision": "fp32",
        "workspace_mb": 512,
    }


def test_reference_is_what_onnxruntime_computes(kit: WrittenKit) -> None:
    reference = load_reference(str(kit.folder))
    assert {name: array.shape for name, array in reference.items()} == {
        OUTPUTS[0]: (1, 16, 8, 8),
        OUTPUTS[1]: (1, 16, 4, 4),
    }
    assert all(np.isfinite(array).all() and array.std() > 0 for array in reference.values())


@pytest.mark.parametrize("name", TARGETS)
def test_readme_of_each_target(name: str, tmp_path: Path, onnx_file: Make) -> None:
    report = write_kit(tmp_path / "kit", onnx_file(), description(), name, reference=False)
    text = (report.folder / "README.md").read_text()
    for command in ("python3 build_engine.py", "python3 detect.py picture.jpg", "python3 bench.py"):
        assert f"\n{command}\n" in text
    program = "tensorrt_rtx" if name == "rtx" else "trtexec"
    assert f"{program} --onnx=model.onnx --saveEngine=model.engine" in text
    assert "{" not in text
    assert ("jetson_clocks" in text) == (name not in ("workstation", "rtx"))
    assert "DeepStream" not in text
    assert "reference.npz`:" not in text


def test_deepstream_of_the_pair(kit: WrittenKit) -> None:
    text = (kit.folder / "deepstream" / "config_infer_darknet.txt").read_text()
    for line in (
        "custom-network-config=model.cfg",
        "model-file=model.weights",
        "labelfile-path=../names.txt",
        "network-mode=0",
        "num-detected-classes=3",
        "maintain-aspect-ratio=0",
        "nms-iou-threshold=0.45",
        "pre-cluster-threshold=0.25",
    ):
        assert f"\n{line}\n" in text
    assert "onnx-file" not in text
    assert "\nmodel-engine-file=model_b1_gpu0_fp32.engine\n" in text
    assert "config_infer_darknet.txt" in (kit.folder / "README.md").read_text()


def deepstream_network() -> onnx.ModelProto:
    node = helper.make_node("Reshape", ["input", "shape"], ["output"], "boxes")
    shape = onnx.numpy_helper.from_array(np.array([1, -1, 6], np.int64), "shape")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [1, 2048, 6])],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    return model


def test_deepstream_of_the_onnx_file(tmp_path: Path, onnx_file: Make) -> None:
    onnx.save(deepstream_network(), str(tmp_path / "ds.onnx"))
    (tmp_path / "cache").write_bytes(b"ranges")
    how = description(precision="int8", input=INPUT._replace(letterbox=True))
    report = write_kit(
        tmp_path / "kit",
        onnx_file(),
        how,
        "xavier",
        calibration_cache=tmp_path / "cache",
        deepstream_onnx=tmp_path / "ds.onnx",
    )
    text = (report.folder / "deepstream" / "config_infer_onnx.txt").read_text()
    for line in (
        "onnx-file=model-deepstream.onnx",
        "int8-calib-file=../calibration.cache",
        "network-mode=1",
        "maintain-aspect-ratio=1",
    ):
        assert f"\n{line}\n" in text
    assert "model-file" not in text
    assert "\nmodel-engine-file=model-deepstream.onnx_b1_gpu0_int8.engine\n" in text  # not the pair's
    assert (report.folder / "calibration.cache").read_bytes() == b"ranges"
    with pytest.raises(ExportError, match="DeepStream-Yolo reads one output"):
        write_kit(tmp_path / "other", onnx_file(), description(), "xavier", deepstream_onnx=onnx_file())


def test_int8_of_the_pair_falls_back(tmp_path: Path, onnx_file: Make, pair: tuple[Path, Path]) -> None:
    path = onnx_file(quantised=True)
    how = description(precision="int8", file_precision="int8")
    report = write_kit(tmp_path / "kit", path, how, "orin", cfg=pair[0], weights=pair[1])
    text = (report.folder / "deepstream" / "config_infer_darknet.txt").read_text()
    assert "\nnetwork-mode=2\n" in text
    assert "int8" not in text


@pytest.mark.parametrize("version", [(3, 6)])
def test_scripts_have_the_grammar_of_python_36(kit: WrittenKit, version: tuple[int, int]) -> None:
    assert len(scripts(kit)) > 12
    for path in scripts(kit):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=version)


def test_scripts_need_no_newer_library_than_python_36(kit: WrittenKit) -> None:
    vermin = shutil.which("vermin", path=str(Path(sys.executable).parent))
    assert vermin, "vermin belongs to the test extra"
    command = [vermin, "-t=3.6", "--eval-annotations", "--no-tips", "-vv", str(kit.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Minimum required versions: 3.6" in done.stdout, done.stdout


def python36() -> str | None:
    """A Python 3.6 on the path or of pyenv, if it runs."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for found in (shutil.which("python3.6"), *map(str, root.glob("versions/3.6.*/bin/python"))):
        if found and not subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
            return found
    return None


def test_scripts_compile_under_a_real_python_36(kit: WrittenKit) -> None:
    found = python36()
    if found is None:
        pytest.skip("no Python 3.6 here")
    code = "import sys; [compile(open(p, encoding='utf-8').read(), p, 'exec') for p in sys.argv[1:]]"
    subprocess.run([found, "-c", code, *map(str, scripts(kit))], check=True)


def test_scripts_import_only_what_jetpack_ships(kit: WrittenKit) -> None:
    local = {path.stem for path in (kit.folder / "runtime").glob("*.py")}
    for path in scripts(kit):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED, path
            elif isinstance(node, ast.ImportFrom):
                first, _, rest = (node.module or "").partition(".")
                if node.level:
                    assert path.parent.name == "runtime"
                    assert node.level == 1
                    assert first in local | {""}, path
                elif first == "runtime":
                    assert path.parent == kit.folder
                    assert rest in local | {""}, path
                else:
                    assert first in ALLOWED, path
        assert b"darkprune." not in path.read_bytes(), "a board has no darkprune"


def test_no_dataclasses_no_walrus_no_later_annotations(kit: WrittenKit) -> None:
    for path in scripts(kit):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, (ast.NamedExpr, ast.Match)), path
            assert not (isinstance(node, ast.ImportFrom) and node.module in ("__future__", "dataclasses")), path


NET = "[net]\nwidth=64\nheight=32\nchannels=3\nletter_box=1\n"
CONV = "[convolutional]\nfilters=16\nsize=1\nactivation=linear\n"
YOLO = "[yolo]\nclasses=3\nnum=2\nmask=0,1\nanchors=1,2,3,4\nnms_kind=diounms\nbeta_nms=0.7\nnew_coords=1\n"


def test_what_describe_reads_from_a_graph_is_what_a_board_reads(tmp_path: Path) -> None:
    (tmp_path / "net.cfg").write_text(NET + CONV + YOLO)
    place = target("orin")
    model = describe(read_graph(tmp_path / "net.cfg"), ["a", "b", "c"], ["head_1"], place, "net")
    assert (model.input.width, model.input.height, model.input.letterbox) == (64, 32, True)
    assert model.heads[0].anchors == [[1.0, 2.0], [3.0, 4.0]]
    assert model.heads[0].new_coords
    assert (model.detection.nms, model.detection.nms_beta, model.workspace_mb) == ("diounms", 0.7, place.workspace_mb)
    (tmp_path / "model.json").write_text(to_json(model, place))
    assert load_model(str(tmp_path)) == model


@pytest.mark.parametrize(
    ("text", "names", "outputs", "reason"),
    [
        (NET + CONV + YOLO, "ab", ["head_1"], "2 names for 3 classes"),
        (NET + CONV + YOLO, "abc", [], "1 detection heads but 0 outputs"),
        (NET.replace("channels=3", "channels=4") + CONV + YOLO, "abc", ["head_1"], "1 or 3 channels"),
        (
            NET + CONV + "[region]\nclasses=3\nnum=2\ncoords=4\nanchors=1,2,3,4\nsoftmax=1\ntree=tree.txt\n",
            "abc",
            ["head_1"],
            "hierarchical classes",
        ),
    ],
)
def test_networks_that_the_scripts_cannot_run(
    text: str, names: str, outputs: list[str], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "tree.txt").write_text("a -1\nb 0\nc 0\n")
    (tmp_path / "net.cfg").write_text(text.replace("tree.txt", str(tmp_path / "tree.txt")))
    with pytest.raises(ExportError, match=reason):
        describe(read_graph(tmp_path / "net.cfg"), names, outputs, target("orin"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("where", "fields", "how", "reason"),
        [
            ("nano", {}, {}, "choose one of jetson-nano"),
            ("onnxruntime", {}, {}, "has no TensorRT"),
            ("jetson-nano", {"precision": "int8"}, {}, "does not compute in INT8, choose one of fp32, fp16"),
            ("orin", {"precision": "int8"}, {}, "INT8: needs a calibration cache"),
            ("jetson-nano", {}, {"batch": "n"}, "open batch size"),
            ("orin", {}, {"batch": "n"}, "batch size is open"),
            ("jetson-nano", {}, {"opset": 17, "ir": 8}, r"IR version 8.*\(and 1 more\)"),
            ("orin", {"input": INPUT._replace(width=32)}, {}, r"of shape \(3, 64, 64\), the network has \(3, 64, 32\)"),
            ("orin", {"input": INPUT._replace(name="data")}, {}, "has inputs input, a kit needs one called data"),
            ("orin", {"heads": [BOARD_HEADS[0]._replace(output="boxes")]}, {}, "has no output boxes but head_5"),
            ("orin", {"heads": [BOARD_HEADS[1]._replace(anchors=[[1, 1]])]}, {}, "needs 8 channels"),
            ("orin", {"file_precision": "fp16"}, {}, "is written in FP32, not in FP16"),
            ("orin", {}, {"half": True}, "is written in FP16, not in FP32"),
        ],
    )
    def test_files_and_targets(
        self,
        where: str,
        fields: dict[str, object],
        how: dict[str, object],
        reason: str,
        tmp_path: Path,
        onnx_file: Make,
    ) -> None:
        source = onnx_file(**how)
        with pytest.raises(ExportError, match=reason):
            write_kit(tmp_path / "kit", source, description(**fields), where)
        assert list(tmp_path.iterdir()) == [source]

    def test_not_onnx(self, tmp_path: Path) -> None:
        path = tmp_path / "x.onnx"
        for content in (b"", b"nonsense", b"[net]\nwidth=416\n" * 100):
            path.write_bytes(content)
            with pytest.raises(ExportError, match="not an ONNX file"):
                write_kit(tmp_path / "kit", path, description(), "orin")
        with pytest.raises(ExportError, match="no such file"):
            write_kit(tmp_path / "kit", tmp_path / "none.onnx", description(), "orin")

    def test_weights_outside(self, tmp_path: Path) -> None:
        path = tmp_path / "x.onnx"
        onnx.save(network(), str(path), save_as_external_data=True, location="x.bin", size_threshold=0)
        with pytest.raises(ExportError, match="keeps its weights in other files"):
            write_kit(tmp_path / "kit", path, description(), "orin")

    def test_half_a_pair(self, tmp_path: Path, onnx_file: Make, pair: tuple[Path, Path]) -> None:
        with pytest.raises(ExportError, match=r"both the \.cfg and the \.weights"):
            write_kit(tmp_path / "kit", onnx_file(), description(), "orin", cfg=pair[0])

    def test_an_existing_folder(self, tmp_path: Path, onnx_file: Make) -> None:
        folder = tmp_path / "kit"
        first = write_kit(folder, onnx_file(), description(), "orin")
        with pytest.raises(OutputError, match="give --overwrite"):
            write_kit(folder, onnx_file(), description(), "orin")
        (folder / "model.engine").write_bytes(b"built")
        changed = description(detection=RULES._replace(threshold=0.5))
        again = write_kit(folder, onnx_file(), changed, "orin", overwrite=True)
        assert first.files == again.files
        assert (folder / "model.engine").read_bytes() == b"built"
        assert json.loads((folder / "model.json").read_text())["detection"]["threshold"] == 0.5
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_without_onnxruntime_there_is_no_reference(
    tmp_path: Path, onnx_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = write_kit(tmp_path / "kit", onnx_file(), description(), "orin")
    assert report.remarks == ("onnxruntime is not installed, so there is no reference.npz to compare the engine with",)
    assert f"\nNote: {report.remarks[0]}\n" in (report.folder / "README.md").read_text()
