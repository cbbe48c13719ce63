"""torch behind the interface of runners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference import forward, load, random_weights
from reference.test_against_darknet import CONV, net

from darkprune.errors import RunnerError
from darkprune.runners.base import LoadedNetwork, get_runner

from .building import DETECTOR, graph_of, images_for, relative


def runner_of(text: str, folder: Path, taps: bool) -> LoadedNetwork:
    path = folder / "net.weights"
    path.write_bytes(random_weights(text, seed=7))
    return get_runner("torch").load(graph_of(text), path, taps=taps)


def test_every_map_but_the_heads_is_shown(tmp_path: Path) -> None:
    shown = runner_of(DETECTOR, tmp_path, True).outputs(images_for(graph_of(DETECTOR))[1].numpy())
    assert sorted(shown) == [index for index in range(15) if index != 12]
    reference = load(DETECTOR, random_weights(DETECTOR, seed=7))
    expected = forward(reference, images_for(graph_of(DETECTOR))[1].numpy())
    for index, values in shown.items():
        assert values.shape == expected[index].shape
        assert values.dtype == np.float32
        assert relative(values, expected[index]) <= 1e-5


def test_head_maps_come_in_batches_fused_or_not(tmp_path: Path) -> None:
    images = images_for(graph_of(DETECTOR), batch=3).numpy()
    plain, fused = (runner_of(DETECTOR, tmp_path, taps).head_maps(images) for taps in (True, False))
    assert [maps.shape for maps in plain] == [(3, 16, 16, 16), (3, 16, 8, 8)]
    for a, b in zip(plain, fused, strict=True):
        assert b.flags.c_contiguous
        assert relative(b, a) <= 1e-5


def test_times_are_told_per_layer(tmp_path: Path) -> None:
    runner = runner_of(DETECTOR, tmp_path, False)
    times = runner.layer_times(images_for(runner.graph).numpy())
    assert times is not None
    assert sorted(times) == [index for index in range(15) if index != 12]
    assert all(ms >= 0 for ms in times.values())


def test_what_torch_cannot_run_is_the_runners_error(tmp_path: Path) -> None:
    path = tmp_path / "net.weights"
    with pytest.raises(RunnerError, match=r"torch cannot run net\.cfg: layer 1 \(gru"):
        get_runner("torch").load(graph_of(net(8, 8, 3, f"{CONV} filters=3", "gru")), path)


def test_what_the_file_lacks_is_drawn(tmp_path: Path) -> None:
    text = net(8, 8, 3, f"{CONV} filters=3", "convolutional filters=4 activation=linear dontload=1")
    (tmp_path / "net.weights").write_bytes(random_weights(text.replace("dontload=1", ""), seed=7)[: -4 * 16])
    runner = get_runner("torch").load(graph_of(text), tmp_path / "net.weights")
    assert abs(runner.outputs(images_for(runner.graph)[0].numpy())[1]).max() > 0
