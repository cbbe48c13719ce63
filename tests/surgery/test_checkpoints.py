"""Real checkpoints: planted zeros that a wrong cut cannot pass, the referee, and the way of a user."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from reference import load

from darkprune.cli.main import main
from darkprune.graph.channels import map_channels
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import Graph, read_graph
from darkprune.runs.digests import digest_of_file
from darkprune.selection.constraints import Limits, settle
from darkprune.selection.settings import Selection
from darkprune.surgery.plan import Plan, make_layers
from darkprune.zoo import resolve
from tests.assets import CHECKPOINTS, needs_assets

from .cutting import check
from .expectation import trace
from .networks import Network

NAMES = [
    "yolo-fastest-1.1_coco", "yolo-fastest-1.1-xl_coco", "MobileNetV2-YOLOv3-Nano_voc",
    "MobileNetV2-YOLO-Fastest-v2-SE_voc", "yoloface-500k-v2-SE", "yolo-fastest-1.1_160_person",
    "yolo-lite_trial6_coco", "yolo-lite_trial3-noBatch_voc",
]  # fmt: skip


def pair_of(name: str) -> tuple[Path, Path]:
    folder = CHECKPOINTS / name
    return folder / f"{name}.cfg", folder / f"{name}.weights"


def some_plan(graph: Graph, hashes: tuple[str, str], seed: int) -> Plan:
    """A plan that removes a quarter of everything that may go, whatever its worth."""
    channels = map_channels(graph)
    random = np.random.default_rng(seed)
    wish = ~channels.free | (random.random(channels.count) < 0.75)
    keep = settle(channels, wish, random.random(channels.count), Limits(min_channels=2)).keep
    layers = make_layers(channels, keep, np.zeros(channels.count, bool))
    settings = {"compensate": "fold", "constant": "mean"}
    return Plan(*hashes, ("net.cfg", "net.weights"), settings, (), layers)


def planted(text: str, weights: bytes, plan: Plan) -> bytes:
    """The weights with nothing in the channels that go: γ = β = 0, and no filter where there is no γ.

    What goes, in depthwise layers too, is worked out by the referee, not by darkprune's labels.
    """
    network = load(text, weights)
    header = 20 if struct.unpack_from("<ii", weights)[1] >= 2 else 16
    chunks = [weights[:header]]
    for layer, traced in zip(network.layers, trace(network, plan.layers, "mean"), strict=True):
        for name, _ in layer.tensors:
            values = layer.arrays[name].copy()
            if name in ("scales", "biases") or (name == "weights" and "scales" not in layer.arrays):
                values[traced.removed] = 0
            chunks.append(values.astype("<f4").tobytes())
    return b"".join(chunks)


def head_inputs(cfg: Path, weights: Path, image: np.ndarray) -> list[np.ndarray]:
    """Runs a pair in OpenCV's own Darknet reader and returns what feeds its heads."""
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("OpenCV 5 has no Darknet reader")
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setInput(image[None])
    names = [f"conv_{head.sources[0]}" for head in read_graph(cfg).heads]
    return [np.asarray(output) for output in net.forward(names)]


@needs_assets
@pytest.mark.parametrize("name", NAMES)
def test_planted_zeros(name: str, tmp_path: Path) -> None:
    original, weights = pair_of(name)
    cfg = tmp_path / "net.cfg"
    cfg.write_bytes(original.read_bytes().replace(b"relu6", b"relu"))  # which OpenCV does not read
    graph = read_graph(cfg)
    plan = some_plan(graph, ("", ""), seed=len(name))
    (tmp_path / "net.weights").write_bytes(planted(cfg.read_text(), weights.read_bytes(), plan))
    plan = plan.with_hashes(digest_of_file(cfg), digest_of_file(tmp_path / "net.weights"))
    (tmp_path / "plan.json").write_text(plan.dumps())
    pair = [str(cfg), str(tmp_path / "net.weights")]
    assert main(["prune", *pair, "--plan", str(tmp_path / "plan.json"), "-o", str(tmp_path / "slim")]) == 0
    image = np.random.default_rng(1).random(graph.net.input[:3], np.float32)
    before = head_inputs(cfg, tmp_path / "net.weights", image)
    after = head_inputs(tmp_path / "slim" / "net.cfg", tmp_path / "slim" / "net.weights", image)
    for a, b in zip(before, after, strict=True):
        assert a.shape == b.shape
        assert np.abs(a).max() > 1e-3
        assert np.abs(a - b).max() <= 1e-4 * np.abs(a).max()
    # the planted network is another one: the zeros mattered
    true = head_inputs(cfg, weights, image)
    assert max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(before, true, strict=True)) > 1e-2


@needs_assets
@pytest.mark.parametrize(
    ("name", "compensate"), [(name, "carrier" if "lite" in name or "coco" in name else "fold") for name in NAMES]
)
def test_referee_on_a_small_image(name: str, compensate: str) -> None:
    """Every layer of a pruned checkpoint is what the plan means, in float64, at the least size that it takes."""
    cfg, weights = pair_of(name)
    text = re.sub(r"(?m)^(width|height)\s*=.*$", r"\1=64", cfg.read_text())
    network = Network(text, 1, False)
    network.__dict__["weights"] = weights.read_bytes()
    settings = Selection(ratio=0.3, merge="vote" if compensate == "fold" else "max", compensate=compensate)
    decision = check(network, settings, tolerance=2e-5)
    assert not decision.cut.keep.all()


@needs_assets
@pytest.mark.parametrize(("name", "how"), [
    (NAMES[0], "--ratio 0.1 --merge any --compensate none"),
    (NAMES[1], "--ratio 0.3 --merge mean --round-to 8"),
    (NAMES[2], "--ratio 0.5 --merge vote --compensate fold"),
    (NAMES[3], "--ratio 0.3 --merge all --compensate carrier"),
    (NAMES[4], "--ratio 0.5 --merge max --compensate fold"),
    (NAMES[5], "--ratio 0.3 --merge vote --compensate carrier"),
    (NAMES[6], "--ratio 0.5 --allocation global --compensate carrier --round-to 8"),
    (NAMES[7], "--ratio 0.3 --criterion l2 --compensate carrier"),
])  # fmt: skip
def test_user_prunes_and_verifies(name: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    pair = [str(path) for path in pair_of(name)]
    slim = [str(tmp_path / "out" / f"{name}.{kind}") for kind in ("cfg", "weights")]
    assert main(["info", *pair, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"]["bytes"] == Path(pair[1]).stat().st_size
    assert main(["prune", *pair, *how.split(), "--force", "-o", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["after"]["bytes"] == Path(slim[1]).stat().st_size
    assert main(["verify", *pair, *slim, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"], data["static"]
    assert data["numeric"]["worst_layer"]["relative"] < 1e-5
    if "carrier" in how and "yolo-lite" in name:  # no depthwise layer: nothing is left at borders
        assert max(difference["relative"] for difference in data["numeric"]["compensation"]) < 1e-5


def test_yolov4_tiny(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Slices that stay equal, carriers in each of them, multiples of 8, on random weights at a small size."""
    pytest.importorskip("cv2")
    text = re.sub(r"(?m)^(width|height)\s*=.*$", r"\1=64", resolve("builtin:yolov4-tiny").read_text())
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(text)
    with weights.open("wb") as file:
        write_fresh(read_graph(cfg), file, 1, vary=True)
    out = tmp_path / "out"
    pair = [str(cfg), str(weights)]
    how = ["--ratio", "0.4", "--compensate", "carrier", "--round-to", "8"]
    assert main(["prune", *pair, *how, "-o", str(out)]) == 0
    assert main(["verify", *pair, str(out / "net.cfg"), str(out / "net.weights")]) == 0
    for layer in read_graph(out / "net.cfg"):
        if layer.name == "convolutional":
            assert layer.output.c % 8 == 0 or layer.output.c == 255
    assert "the cut is right" in capsys.readouterr().out
