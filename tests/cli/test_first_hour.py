"""What a new user meets: odd files, weights of a training that failed, names of classes, partial files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from darkprune.cli.main import main
from darkprune.darknet.weights import Header
from darkprune.runners.timing import speed_up


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def spoil(path: str, at: int, value: float) -> None:
    data = bytearray(Path(path).read_bytes())
    data[20 + 4 * at : 24 + 4 * at] = struct.pack("<f", value)
    Path(path).write_bytes(data)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (5, float("nan"), "layer 0 (convolutional): biases holds NaN or infinite values, first at channel 5"),
        (50, -1.0, "layer 0 (convolutional): rolling_variance holds negative values, first at channel 2"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_weights_that_give_nan_are_said(
    at: int, value: float, message: str, small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(small_pair.weights, at, value)
    pair = (small_pair.cfg, small_pair.weights)
    image = tmp_path / "x.png"
    assert cv2.imwrite(str(image), np.full((32, 64, 3), 99, np.uint8))
    assert message in run_json(capsys, "info", *pair)["warnings"]
    assert message in run_json(capsys, "prune", *pair, "--ratio", "0.3", "-o", tmp_path / "slim")["warnings"]
    assert message in run_json(capsys, "detect", *pair, image, "--runner", "opencv")["warnings"]
    pytest.importorskip("onnx")
    assert main(["export", *pair, "-o", str(tmp_path / "x.onnx"), "--static"]) == 1
    assert f"{small_pair.weights}: {message}; the network computes NaN" in capsys.readouterr().err


def test_what_darknet_misreads_is_said_by_every_command_that_runs_a_network(
    small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = Path(small_pair.cfg)
    cfg.write_text(cfg.read_text().replace("anchors=10,14, 30,30, 60,50, 90,90", "anchors=10,14 30,30 60,50 90,90"))
    pair = (cfg, small_pair.weights)
    for command in (("info", *pair), ("prune", *pair, "--ratio", "0.3", "-o", tmp_path / "slim")):
        warnings = run_json(capsys, *command)["warnings"]
        (line,) = (line for line in warnings if "anchors= has 5 numbers, but num=4 needs 8" in line)
        assert line.startswith("layers ")  # both heads in one line


def test_a_header_of_an_export_is_mended(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(small_pair.weights)
    data = path.read_bytes()
    assert main(["prune", small_pair.cfg, str(path), "--ratio", "0.3", "-o", str(tmp_path / "right")]) == 0
    path.write_bytes(struct.pack("<iiiQ", 0, 0, 0, 77) + data[20:])
    capsys.readouterr()
    out = tmp_path / "slim"
    found = run_json(capsys, "prune", small_pair.cfg, path, "--ratio", "0.3", "-o", out)
    assert any("the header says 0.0.0 but has a 64-bit count" in line for line in found["warnings"])
    written = (out / "small.weights").read_bytes()
    assert written[:20] == Header(0, 2, 5, 77).encode()
    assert written[20:] == (tmp_path / "right" / "small.weights").read_bytes()[20:]
    slim = (str(out / "small.cfg"), str(out / "small.weights"))
    assert main(["verify", small_pair.cfg, str(path), *slim, "--runner", "opencv"]) == 0


def test_the_names_of_the_classes_come_along(small_pair: Any, tmp_path: Path) -> None:
    names, other = Path(small_pair.cfg).with_suffix(".names"), tmp_path / "other.names"
    names.write_bytes("Käse\r\n猫\n".encode())
    other.write_text("a\nb\n")
    words = ["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.3"]
    assert main([*words, "-o", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one" / "small.names").read_bytes() == names.read_bytes()
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert report["outputs"]["names"]["name"] == "small.names"
    assert main([*words, "-o", str(tmp_path / "two"), "--names", str(other)]) == 0
    assert (tmp_path / "two" / "small.names").read_bytes() == other.read_bytes()
    names.unlink()
    assert main([*words, "-o", str(tmp_path / "three")]) == 0
    assert not (tmp_path / "three" / "small.names").exists()


def test_partial_writes_the_first_layers(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["partial", small_pair.cfg, small_pair.weights, "--layers", "2", "-o", str(tmp_path / "small.conv.2")]
    assert main(words) == 0
    assert "layers 0 to 1 of small.cfg" in capsys.readouterr().out
    floats = 4 * 16 + 16 * 27 + 4 * 24 + 24 * 16 * 9
    data = Path(small_pair.weights).read_bytes()
    assert (tmp_path / "small.conv.2").read_bytes() == data[: 20 + 4 * floats]
    assert main(words) == 1
    assert "exists" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_silu_is_explained_and_exported_as_swish(
    small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    cfg, out = Path(small_pair.cfg), tmp_path / "x.onnx"
    cfg.write_text(cfg.read_text().replace("activation=mish", "activation=silu  # SiLU"))
    pair = (str(cfg), small_pair.weights)
    assert main(["info", *pair]) == 0
    assert "activation=silu#SiLU and computes relu; its own name is swish" in capsys.readouterr().err
    assert main(["export", *pair, "-o", str(out), "--static"]) == 0
    assert "export with --as swish" in capsys.readouterr().err
    relus = [node.op_type for node in onnx.load(out).graph.node].count("Relu")
    assert main(["export", *pair, "-o", str(out), "--static", "--as", "swish", "--overwrite"]) == 0
    operators = [node.op_type for node in onnx.load(out).graph.node]
    assert (relus, operators.count("Relu"), operators.count("Sigmoid")) == (1, 0, 1)
    kit = ["kit", *pair, "--target", "jetson-nano", "--static", "-o", str(tmp_path / "kit"), "--check", "none"]
    cfg.with_suffix(".names").write_text("a\nb\n")
    assert main([*kit, "--as", "swish"]) == 0
    assert "silu" not in capsys.readouterr().err
    assert "Sigmoid" in {node.op_type for node in onnx.load(tmp_path / "kit" / "model.onnx").graph.node}
    cfg.write_text(cfg.read_text().replace("silu  # SiLU", "leaky # mish"))
    assert main(["export", *pair, "-o", str(out), "--as", "swish", "--overwrite"]) == 2
    assert "darknet knows every activation" in capsys.readouterr().err


def test_info_shows_pools_and_what_is_left(small_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pools = "[maxpool]\nsize=2\nstride=2\n[maxpool]\nsize=3\nstride_x=1\nstride_y=2\n[local_avgpool]\nstride=3\n"
    (tmp_path / "pools.cfg").write_text(f"[net]\nwidth=64\nheight=64\nchannels=3\n{pools}[upsample]\nstride=2\n")
    assert main(["info", str(tmp_path / "pools.cfg")]) == 0
    text = capsys.readouterr().out
    assert [text.count(f" {shown} ") for shown in ("2x2/2", "3x3/1x2", "3x3/3", "x2")] == [1, 1, 1, 1]
    words = ["prune", small_pair.cfg, small_pair.weights, "--ratio", "0.5", "--min-channels", "2"]
    assert main([*words, "-o", str(tmp_path / "slim")]) == 0
    capsys.readouterr()
    slim = str(tmp_path / "slim" / "small.cfg")
    found = run_json(capsys, "info", small_pair.cfg, "--against", slim)["against"]
    assert main(["info", small_pair.cfg, "--against", str(tmp_path / "slim" / "plan.json")]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[2].split()[:4] == ["0", "convolutional", "16", str(found["layers"][0]["out"][0])]
    assert "before" in text
    assert found["params"] < 20_000


def test_the_speed_up_has_an_interval() -> None:
    slow, fast = np.random.default_rng(0).normal(2, 0.2, (200, 50)), np.ones(50)
    inside = sum(low <= 2 <= high for _, low, high in (speed_up(list(row), list(fast)) for row in slow))
    assert 180 <= inside <= 200  # 95 of 100
    assert speed_up([3.0], [2.0]) == (1.5, 1.5, 1.5)
