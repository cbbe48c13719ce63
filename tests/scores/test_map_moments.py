"""Similarity measured on images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tiny import DETECTOR, write_pair

from darkprune.cli.main import main
from darkprune.data.samples import Samples
from darkprune.graph.channels import map_channels
from darkprune.network import Network
from darkprune.network.loading import batches_for, load_network
from darkprune.scores.map_moments import map_moments

TWICE = DETECTOR.replace("[shortcut]", "[route]\nlayers=-1,-5\n[convolutional]\nfilters=12\nsize=1\n[shortcut]")


def test_moments_are_those_of_the_maps(samples: Samples, tmp_path: Path) -> None:
    with write_pair(tmp_path, TWICE) as weights:
        channels = map_channels(weights.graph)
        known = map_moments(weights, channels, samples.fit)
        network = load_network(weights)
        maps: dict[int, list[torch.Tensor]] = {}
        for layer in weights.graph:
            keep = maps.setdefault(layer.index, []).append
            network.layers[layer.index].register_forward_hook(lambda _m, _i, output, keep=keep: keep(output))
        with torch.inference_mode():
            for images in batches_for(network, samples.fit):
                network(images)
        for atom in channels.atoms:
            for index, parts in known(np.sort(atom)).items():
                values = torch.cat(maps[index]).transpose(0, 1).flatten(1).double().numpy()
                for part in parts:
                    assert np.array_equal(channels.of_layer[index][part.positions], np.sort(atom))
                    np.testing.assert_allclose(part.mean, values[part.positions].mean(1), rtol=1e-4, atol=1e-6)
                    wanted = np.cov(values[part.positions], bias=True)
                    np.testing.assert_allclose(part.covariance, wanted, rtol=1e-3, atol=1e-6)


def test_doubles_that_only_images_show(images: Path, tmp_path: Path) -> None:
    """Filters that differ on an input that is the same three times: no double by the filters, one on the maps."""
    for path in images.iterdir():
        grey(path)

    def edit(network: Network) -> None:
        module = network.layers[0]
        for name in ("scales", "biases", "rolling_mean", "rolling_variance"):
            values = getattr(module, name)
            values[1] = values[0]
        kernel = module.weights.view(12, 3, 9)
        kernel[1] = kernel[0, [1, 2, 0]]

    with write_pair(tmp_path, DETECTOR.replace("from=0", "from=-2"), edit=edit) as weights:
        prune = ["prune", weights.graph.cfg.source, str(weights.file.path), "--similarity", "0.9999"]
        more = ["--min-channels", "2", "--images", str(images)]
        assert main([*prune, *more, "-o", str(tmp_path / "slim")]) == 0
        assert main([*prune, "--min-channels", "2", "-o", str(tmp_path / "filters")]) == 0
        slim = [str(tmp_path / "slim" / name) for name in ("net.cfg", "net.weights")]
        assert main(["verify", weights.graph.cfg.source, str(weights.file.path), *slim]) == 0
    report = json.loads((tmp_path / "slim" / "report.json").read_text())
    assert report["stages"][-1]["stage"] == "similarity"
    assert report["stages"][-1]["reconstruction_error"]["largest"] < 1e-4
    assert report["recovery"]["distance_after"] < 1e-3
    assert json.loads((tmp_path / "filters" / "report.json").read_text())["stages"][-1]["stage"] == "channels"


def grey(path: Path) -> None:
    """Makes all three planes of an image the same."""
    import cv2

    image = cv2.imread(str(path))
    assert image is not None
    cv2.imwrite(str(path), np.repeat(image[..., :1], 3, axis=2))
