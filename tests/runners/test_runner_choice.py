"""The choice among runners, and OpenCV's Darknet reader against the referee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import forward, load

from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import RunnerError, UsageError
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import Graph, build_graph, read_graph
from darkprune.graph.weights import stored_tensors
from darkprune.runners import base
from darkprune.runners.base import get_runner, load_with_any

cv2 = pytest.importorskip("cv2")
needs_reader = pytest.mark.skipif(not hasattr(cv2.dnn, "readNetFromDarknet"), reason="OpenCV 5 has no Darknet reader")


def made(text: str, path: Path) -> Graph:
    graph = build_graph(parse_cfg(text, "net.cfg"))
    with path.open("wb") as file:
        write_fresh(graph, file, 2, vary=True)
    return graph


def net(*sections: str) -> str:
    lines = ["[net]\nwidth=32\nheight=32\nchannels=3\n"]
    for section in sections:
        name, *keys = section.split()
        lines.append("\n".join([f"[{name}]", *keys]) + "\n")
    return "\n".join(lines)


CONV = "convolutional filters={} size=3 stride=1 pad=1 batch_normalize=1 activation={}"


@needs_reader
def test_every_layer_that_opencv_shows_is_what_darknet_computes(small_pair: Any) -> None:
    graph = read_graph(Path(small_pair.cfg))
    image = np.random.default_rng(0).random((3, 32, 64), np.float32)
    found = get_runner("opencv").load(graph, Path(small_pair.weights)).outputs(image)
    expected = forward(load(Path(small_pair.cfg).read_text(), Path(small_pair.weights)), image)
    heads = {head.index for head in graph.heads}
    assert set(found) == set(range(len(graph))) - heads
    for index, values in found.items():
        assert values.shape == tuple(graph[index].output[:3])
        assert np.abs(values - expected[index]).max() <= 1e-5 * np.abs(expected[index]).max(), index


@needs_reader
def test_opencv_has_darknet_s_epsilon(small_pair: Any) -> None:
    graph, weights = read_graph(Path(small_pair.cfg)), Path(small_pair.weights)
    content, position = bytearray(weights.read_bytes()), 20
    for _, name, shape in stored_tensors(graph):
        if name == "rolling_variance":  # as small as in checkpoints whose first layers hardly vary
            content[position : position + 4 * shape[0]] = np.full(shape, 1e-4, np.float32).tobytes()
        position += 4 * int(np.prod(shape))
    weights.write_bytes(content)
    image = np.random.default_rng(0).random((3, 32, 64), np.float32)
    (found, *_) = get_runner("opencv").load(graph, weights, taps=False).head_maps(image[None])
    expected = forward(load(Path(small_pair.cfg).read_text(), weights), image)[graph.heads[0].sources[0]]
    assert np.abs(found[0] - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("runner", ["torch", "opencv"])
def test_one_run_gives_the_same_without_the_memory(runner: str, small_pair: Any) -> None:
    graph, weights = read_graph(Path(small_pair.cfg)), Path(small_pair.weights)
    images = np.random.default_rng(0).random((1, 3, 32, 64), np.float32)
    for taps in (True, False):
        kept = get_runner(runner).load(graph, weights, taps=taps)
        once = get_runner(runner).load(graph, weights, taps=taps, once=True)
        for _ in range(2):
            for expected, found in zip(kept.head_maps(images), once.head_maps(images), strict=True):
                assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        assert set(once.outputs(images[0])) == set(kept.outputs(images[0]))
    if runner == "torch":
        assert all(tensor.is_meta for tensor in once.network.state_dict().values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("sections", [
    ["convolutional filters=3 size=3 pad=1", "convolutional share_index=0 filters=3 size=3 pad=1"],
    ["convolutional filters=3 size=3 pad=1 dontload=1", "normalization", "convolutional filters=3 size=1"],
    ["convolutional filters=3 size=3 pad=1", "normalization size=3 alpha=1 beta=1 kappa=1", "local filters=3 size=1"],
])  # fmt: skip
def test_one_run_of_layers_that_share_or_lack_weights(sections: list[str], tmp_path: Path) -> None:
    graph = made(net(*sections), tmp_path / "w")
    image = np.random.default_rng(0).random((3, 32, 32), np.float32)
    kept, once = (get_runner("torch").load(graph, tmp_path / "w", once=value).outputs(image) for value in (False, True))
    for index, values in kept.items():
        np.testing.assert_allclose(once[index], values, atol=1e-5)


@needs_reader
def test_kinds_that_opencv_reads(tmp_path: Path) -> None:
    text = net(
        CONV.format(8, "swish"), "maxpool size=2 stride=2", CONV.format(8, "leaky") + " groups=8",
        "convolutional filters=8 size=1 activation=linear", "shortcut from=-3 activation=leaky", "avgpool",
        "convolutional filters=8 size=1 activation=logistic", "scale_channels from=4", "dropout", "upsample stride=2",
        "route layers=-1,0", "reorg stride=2", "convolutional filters=12 size=1 activation=linear",
        "region classes=1 num=2 coords=4 anchors=1,1,2,2 softmax=1",
    )  # fmt: skip
    graph = made(text, tmp_path / "w")  # neither batch= nor subdivisions= in [net]
    image = np.random.default_rng(0).random((3, 32, 32), np.float32)
    found = get_runner("opencv").load(graph, tmp_path / "w").outputs(image)
    expected = forward(load(text, tmp_path / "w"), image, eps=1e-6)
    assert {0, 1, 2, 4, 7, 9, 10, 11, 12} <= set(found)
    for index, values in found.items():
        assert np.abs(values - expected[index]).max() <= 1e-5 * np.abs(expected[index]).max(), index


@needs_reader
@pytest.mark.parametrize(
    "sections", [[CONV.format(4, "relu6")], [CONV.format(4, "leaky"), "reorg3d stride=2"], ["local filters=3"]]
)
def test_what_opencv_refuses_is_one_line(sections: list[str], tmp_path: Path) -> None:
    graph = made(net(*sections), tmp_path / "w")
    with pytest.raises(RunnerError, match=r"^OpenCV .* cannot (read|run) net\.cfg: ") as caught:
        get_runner("opencv").load(graph, tmp_path / "w").outputs(np.zeros((3, 32, 32), np.float32))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_opencv_without_a_reader(small_pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2.dnn, "readNetFromDarknet", raising=False)
    graph = read_graph(Path(small_pair.cfg))
    with pytest.raises(RunnerError, match="has no Darknet reader; install opencv-python-headless<5"):
        get_runner("opencv").load(graph, Path(small_pair.weights))


def test_unknown_and_missing_runners(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no runner 'abacus'; there are opencv"):
        get_runner("abacus")
    monkeypatch.setitem(base.RUNNERS, "opencv", "darkprune.runners.nowhere")
    with pytest.raises(RunnerError, match="runner opencv is not installed"):
        get_runner("opencv")


def test_first_that_takes_the_network(small_pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, weights = read_graph(Path(small_pair.cfg)), Path(small_pair.weights)
    asked: list[str] = []

    class Refusing(base.Runner):
        def load(self, graph: Graph, weights: Path, *, taps: bool = True, once: bool = False) -> base.LoadedNetwork:
            asked.append("refused")
            raise RunnerError("no time")

    class Taking(Refusing):
        def load(self, graph: Graph, weights: Path, *, taps: bool = True, once: bool = False) -> Any:
            asked.append("taken")
            return "network"

    monkeypatch.setattr(base, "get_runner", lambda name: Taking() if name == "torch" else Refusing())
    assert load_with_any(graph, weights, order=("opencv", "torch", "onnxruntime")) == ("torch", "network")
    assert asked == ["refused", "taken"]
    with pytest.raises(RunnerError, match=r"^no time; no time$"):
        load_with_any(graph, weights, order=("opencv", "onnxruntime"))
    with pytest.raises(RunnerError, match=r"^no time$"):
        load_with_any(graph, weights, "opencv")


@needs_reader
@pytest.mark.parametrize(
    ("before", "written", "read"),
    [
        ("filters=24", "filters=24\nfilters=99", "filters=24"),
        ("filters=24", "filters=24 ; was 32", "filters=24"),
        ("activation=mish", "activation=silu", "activation=relu"),
        ("activation=mish", "activation=mish # smooth", "activation=relu"),
        ("90,90\nclasses", "90,90 # 1,2, 3,4\nclasses", "90,90\nclasses"),
    ],
)
def test_opencv_is_given_what_darknet_reads(before: str, written: str, read: str, small_pair: Any) -> None:
    text = Path(small_pair.cfg).read_text()
    images = np.random.default_rng(0).random((1, 3, 32, 64), np.float32)
    odd, plain = (
        get_runner("opencv").load(build_graph(parse_cfg(text.replace(before, line))), Path(small_pair.weights))
        for line in (written, read)
    )
    for one, other in zip(odd.head_maps(images), plain.head_maps(images), strict=True):
        np.testing.assert_array_equal(one, other)
