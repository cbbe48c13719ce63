"""`darkprune factorize` from end to end, on a small detector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from reference import forward, load

from darkprune.api.factorize import FactorizeSettings, factorize
from darkprune.api.pair import Pair
from darkprune.api.verify import VerifySettings, verify
from darkprune.cli.main import main
from darkprune.errors import DarkpruneError, PlanError, UsageError
from darkprune.graph.graph import read_graph
from darkprune.graph.weights import NetworkWeights

torch = pytest.importorskip("torch", reason="pip install '.[train]'")

from tiny import write_images, write_pair  # noqa: E402

from darkprune.data.samples import read_samples  # noqa: E402
from darkprune.lowrank.images import measure_moments  # noqa: E402
from darkprune.network import loading  # noqa: E402

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation={}\n\n"
DETECTOR = (
    "[net]\nwidth=32\nheight=32\nchannels=3\n\n"
    + CONV.format(16, 2, "leaky")
    + CONV.format(32, 1, "leaky")
    + CONV.format(16, 1, "linear")
    + "[shortcut]\nfrom=-3\nactivation=linear\n\n"
    + CONV.format(32, 2, "mish")
    + "[route]\nlayers=-1\n\n"
    + "[convolutional]\nfilters=21\nsize=1\nactivation=linear\n\n"
    + "[yolo]\nmask=0,1,2\nanchors=4,4, 8,8, 16,16\nclasses=2\nnum=3\n"
)


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "default_device", lambda: torch.device("cpu"))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with write_pair(tmp_path, DETECTOR) as weights:
        yield Pair(tmp_path / "net.cfg", weights.path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 24)


def words(pair: Pair) -> list[str]:
    return [str(pair.cfg), str(pair.weights)]


def test_moments_are_those_of_the_maps(pair: Pair, images: Path) -> None:
    """Against maps that the network gives when asked, and derivatives of its own projections."""
    with pair.open() as weights:
        sample = read_samples(images, weights.graph).fit
        moments = measure_moments(weights, sample)
        network = loading.load_network(weights)
        layer, module = weights.graph[6], network.layers[6]
        maps = torch.cat([network(batch, taps=[5, 6]).taps[6] for batch in loading.batches_for(network, sample)])
        inputs = torch.cat([network(batch, taps=[5]).taps[5] for batch in loading.batches_for(network, sample)])
        found = moments(layer)
    rows = (maps - module.biases.view(-1, 1, 1)).transpose(0, 1).flatten(1).double().numpy()
    seen = inputs.transpose(0, 1).flatten(1).double().numpy()
    np.testing.assert_allclose(found.mean, rows.mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.covariance, np.cov(rows, bias=True), rtol=1e-3, atol=1e-5)
    assert found.inputs is not None
    np.testing.assert_allclose(found.inputs, seen @ seen.T / seen.shape[1], rtol=1e-4, atol=1e-5)
    assert found.filters.shape == (21, 32, 1)
    # a head's class value has no effect where there is hardly an object; objectness and box do
    effect = found.effect.diagonal()
    assert (effect > 0).all()
    assert (np.linalg.eigvalsh(found.effect) > -1e-9 * effect.max()).all()
    assert not hasattr(network.layers[6].convolve, "func")  # nothing stays behind in a network


def test_names_of_the_classes_go_along(pair: Pair, tmp_path: Path) -> None:
    pair.cfg.with_suffix(".names").write_text("bolt\nnut\n")
    factorize(pair, FactorizeSettings(target_macs=0.8), output=tmp_path / "out").close()
    assert (tmp_path / "out" / "net.names").read_text() == "bolt\nnut\n"


@pytest.mark.parametrize("how", ["weights", "images"])
def test_the_command(how: str, pair: Pair, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    out = tmp_path / "out"
    more = ["--images", str(images)] if how == "images" else []
    assert main(["factorize", *words(pair), "--target-macs", "0.7", *more, "-o", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0.6 * result["before"]["macs"] < result["after"]["macs"] <= 0.7 * result["before"]["macs"]
    rows = {row["layer"]: row for row in result["factors"]}
    assert rows
    slim = read_graph(out / "net.cfg")
    assert slim.macs == result["after"]["macs"]
    saved = sum(row["macs_before"] - row["macs_after"] for row in rows.values())
    assert saved == result["before"]["macs"] - result["after"]["macs"]
    plan = json.loads((out / "plan.json").read_text())
    assert set(plan["factors"]) == {str(layer) for layer in rows}
    assert plan["settings"]["moments"] == how
    assert result["stages"][0]["stage"] == "factors"
    assert result["stages"][0]["after"]["bytes"] == (out / "net.weights").stat().st_size
    assert ("comparison" in result) == (how == "images")
    if how == "images":
        assert [row["name"] for row in result["comparison"]][:2] == ["original", "factorised"]
    assert main(["verify", *words(pair), str(out / "net.cfg"), str(out / "net.weights"), "--json"]) == 0
    numeric = json.loads(capsys.readouterr().out)["numeric"]
    assert numeric["worst_layer"]["relative"] < 1e-4
    again = tmp_path / "again"
    assert main(["prune", *words(pair), "--plan", str(out / "plan.json"), "-o", str(again)]) == 0
    for name in ("net.cfg", "net.weights"):
        assert (out / name).read_bytes() == (again / name).read_bytes()
    capsys.readouterr()
    assert main(["factorize", *words(pair), "--target-macs", "0.7", *more, "-o", str(tmp_path / "text")]) == 0
    text = capsys.readouterr().out
    assert "rank of inputs" in text
    assert "next: darkprune verify" in text
    assert (tmp_path / "text" / "net.weights").read_bytes() == (out / "net.weights").read_bytes()


def test_wrong_numbers_are_found(pair: Pair, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    factorize(pair, FactorizeSettings(target_macs=0.6), output=tmp_path / "out").close()
    slim = Pair(tmp_path / "out" / "net.cfg", tmp_path / "out" / "net.weights")
    assert verify(slim, pair).verdict == "right"
    (tmp_path / "out" / "report.json").unlink()  # which holds a hash
    with NetworkWeights(slim.graph, slim.weights_file) as weights:
        inner = next(layer for layer in slim.graph if layer.kind.activation == "linear" and not layer.is_normalised)
        place = next(
            blob for (index, name), blob in weights.file.blobs.items() if (index, name) == (inner.index, "weights")
        )
        offset = place.offset
    raw = bytearray(slim.weights_file.read_bytes())
    raw[offset : offset + 4] = np.float32(9).tobytes()
    slim.weights_file.write_bytes(raw)
    assert verify(slim, pair).verdict == "wrong"
    assert verify(slim, pair, VerifySettings(static=True)).ok


def test_what_is_kept_grows_with_the_budget(pair: Pair, images: Path) -> None:
    distances = []
    for target in (0.4, 0.6, 0.8, 0.95):
        surgery = factorize(pair, FactorizeSettings(target_macs=target, images=str(images)))
        distances.append(surgery.findings["recovery"]["distance_before"])
        surgery.close()
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.1 * distances[0]


def test_a_refit_comes_closer(pair: Pair, images: Path, tmp_path: Path) -> None:
    settings = FactorizeSettings(target_macs=0.5, images=str(images), recover="lsq")
    surgery = factorize(pair, settings, output=tmp_path / "out")
    surgery.close()
    recovery = surgery.findings["recovery"]
    assert recovery["distance_after"] < 0.9 * recovery["distance_before"]
    assert recovery["layers"] == sum(layer.name == "convolutional" for layer in surgery.graph) - 1
    slim = Pair(tmp_path / "out" / "net.cfg", tmp_path / "out" / "net.weights")
    assert verify(slim, pair).verdict == "not compared"


def test_the_result_is_a_network_like_any(pair: Pair, tmp_path: Path) -> None:
    """It can be pruned, and factorised again; and the referee computes what darkprune does."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert main(["factorize", *words(pair), "--target-params", "0.7", "--round-to", "4", "-o", str(first)]) == 0
    slim = [str(first / "net.cfg"), str(first / "net.weights")]
    widths = [layer.output.c for layer in read_graph(first / "net.cfg") if layer.name == "convolutional"]
    assert not any(width % 4 for width in widths if width != 21)
    assert main(["prune", *slim, "--ratio", "0.3", "--min-channels", "2", "-o", str(second)]) == 0
    assert main(["verify", *slim, str(second / "net.cfg"), str(second / "net.weights")]) == 0
    assert main(["factorize", *slim, "--target-macs", "0.8", "-o", str(third)]) == 0
    assert main(["verify", *slim, str(third / "net.cfg"), str(third / "net.weights")]) == 0
    text, raw = (first / "net.cfg").read_text(), (first / "net.weights").read_bytes()
    image = np.random.default_rng(0).random((3, 32, 32), np.float32)
    with Pair(*slim).open() as weights:
        network = loading.load_network(weights)
        found = network(torch.from_numpy(image)[None], taps=[len(network.graph) - 2]).taps[len(network.graph) - 2]
    np.testing.assert_allclose(found[0].numpy(), forward(load(text, raw), image)[-2], rtol=1e-3, atol=1e-4)


def test_excluded_layers_stay(pair: Pair) -> None:
    whole = factorize(pair, FactorizeSettings(target_macs=0.7))
    layers = sorted(whole.plan.factors)
    left = factorize(pair, FactorizeSettings(target_macs=0.8, exclude=(layers[0],)))
    assert layers[0] not in left.plan.factors
    whole.close()
    left.close()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, UsageError, "say what to keep with one of"),
        ({"target_macs": 0.5, "target_params": 0.5}, UsageError, "say what to keep with one of"),
        ({"target_macs": 0.5, "recover": "lsq"}, UsageError, "looks at images"),
        ({"target_macs": 0.5, "round_to": 0}, UsageError, "--round-to"),
        ({"target_macs": 0.01}, PlanError, "factorisation alone leaves"),
        ({"target_macs": 3.0}, UsageError, "above 1"),
        ({"target_macs": 0.5, "exclude": (99,)}, UsageError, "--exclude 99"),
        ({"target_macs": 0.5, "exclude": (1, 2, 4, 6)}, PlanError, "no convolution of it"),
    ],
)
def test_what_is_refused(settings: dict[str, object], error: type[DarkpruneError], message: str, pair: Pair) -> None:
    with pytest.raises(error, match=message):
        factorize(pair, FactorizeSettings(**settings))  # type: ignore[arg-type]


def test_an_output_is_not_overwritten(pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["factorize", *words(pair), "--target-macs", "0.8", "-o", str(out)]) == 0
    before = (out / "net.weights").read_bytes()
    assert main(["factorize", *words(pair), "--target-macs", "0.6", "-o", str(out)]) == 1
    assert (out / "net.weights").read_bytes() == before
    assert main(["factorize", *words(pair), "--target-macs", "0.6", "-o", str(out), "--overwrite"]) == 0
    assert (out / "net.weights").read_bytes() != before
