"""The referee against the real darknet, layer by layer.

Needs a program `refdump CFG WEIGHTS INPUT.f32 OUTDIR` over AlexeyAB's darknet (-O2, no AVX, batch normalisation fused)
that writes every layer's output as OUTDIR/<index>.f32; its path is taken from the environment: DARKNET_REFDUMP.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.assets import CHECKPOINTS

from . import ReferenceNetwork, forward, load, random_weights

REFDUMP = os.environ.get("DARKNET_REFDUMP")
pytestmark = pytest.mark.skipif(not REFDUMP, reason="DARKNET_REFDUMP does not name a layer dumper")


def net(w: int, h: int, c: int, *sections: str) -> str:
    """`conv filters=3 size=3` is a section; the keys are written one per line."""
    lines = [f"[net]\nwidth={w}\nheight={h}\nchannels={c}\n"]
    for section in sections:
        name, *keys = section.split()
        lines.append("\n".join([f"[{name}]", *keys]) + "\n")
    return "\n".join(lines)


CONV = "convolutional batch_normalize=1 size=3 stride=1 pad=1 activation=leaky"
HEAD = "anchors=10,14,23,27,37,58,81,82 num=4"
ACTIVATIONS = [
    "logistic", "loggy", "relu", "relu6", "elu", "selu", "gelu", "relie", "ramp", "leaky", "revleaky", "tanh", "plse",
    "stair", "hardtan", "lhtan", "linear", "swish", "mish", "hard_mish", "normalize_channels",
    "normalize_channels_softmax", "normalize_channels_softmax_maxval", "unheard_of",
]  # fmt: skip

SYNTHETIC = {
    "convolution": net(
        17, 13, 3,
        f"{CONV} filters=8", "convolutional filters=12 groups=4 size=3 padding=1 activation=linear",
        "convolutional filters=12 groups=12 size=5 stride=2 pad=1 activation=relu batch_normalize=1",
        "convolutional filters=6 size=3 stride_x=2 stride_y=1 pad=1 activation=tanh",
        "convolutional filters=6 size=3 stride_y=2 pad=7 activation=linear cbn=1",
        "convolutional filters=5 size=2 padding=1", "convolutional filters=4 size=1 stride=2 activation=linear",
    ),
    "dilation": net(
        19, 15, 3, f"{CONV} filters=8 dilation=2",
        "convolutional filters=8 groups=2 size=3 stride=2 dilation=3 pad=1 activation=linear",
        "convolutional filters=4 size=5 dilation=2 pad=1 activation=linear",
        "convolutional filters=4 size=1 dilation=2 pad=1 activation=linear",
    ),
    "flipped and binary": net(9, 9, 3, f"{CONV} filters=8 flipped=1", f"{CONV} filters=8 binary=1 bin_output=1"),
    "share_index": net(
        15, 15, 8, f"{CONV} filters=8", f"{CONV} filters=8", "convolutional filters=8 size=3 pad=1 activation=linear",
        "convolutional share_index=-2 filters=8 size=3 stride=2 pad=1 activation=mish batch_normalize=1",
        "convolutional share_index=0 filters=8 size=3 dilation=2 pad=1 activation=relu",
        "convolutional share_index=2 filters=8 size=3 batch_normalize=1 pad=1 activation=relu",
    ),
    "antialiasing": net(
        17, 18, 3, f"{CONV} filters=8 antialiasing=1", "convolutional antialiasing=1 filters=6 size=3 stride=2 pad=1",
        "convolutional antialiasing=2 filters=6 size=3 stride=2 pad=1 activation=leaky", f"{CONV} filters=64",
        "maxpool size=2 stride=2 antialiasing=1",
    ),
    "maxpool": net(
        21, 17, 3, f"{CONV} filters=6", "maxpool size=2 stride=1", "maxpool size=2 stride=2", f"{CONV} filters=6",
        "maxpool size=3 stride=2", "route layers=0", "maxpool size=3 stride=2 padding=0", "route layers=0",
        "maxpool size=3 stride=1 padding=1", "route layers=0", "maxpool size=5 stride=1", "maxpool stride=3",
        "route layers=0", "maxpool size=4 stride=2 padding=5", "route layers=0", "maxpool size=13 stride=1",
        "route layers=0", "maxpool size=3 stride_x=2 stride_y=1", "route layers=0", "maxpool size=2 stride=2 padding=0",
        "route layers=0", "max maxpool_depth=1 out_channels=4",
    ),
    "average pools": net(
        21, 17, 3, f"{CONV} filters=6", "local_avgpool size=3 stride=2", "route layers=0",
        "local_avg size=2 stride=2 padding=0", "route layers=0", "local_avgpool size=4 stride_x=2 stride_y=3",
        "avgpool",
    ),
    "upsample": net(
        12, 8, 3, f"{CONV} filters=6", "upsample stride=3 scale=0.5", "route layers=0", "upsample stride=-2 scale=1.5",
        "upsample",
    ),
    "reorder": net(
        24, 12, 16, f"{CONV} filters=16", "reorg stride=2", "route layers=0", "reorg3d stride=2", "route layers=0",
        "reorg stride=2 reverse=1", "route layers=0", "reorg3d stride=2 reverse=1", "route layers=0",
        "convolutional filters=18 size=1 activation=linear", "reorg stride=3", "route layers=-2",
        "reorg stride=3 reverse=1", "route layers=-4", "reorg3d stride=3",
    ),
    "crop": net(11, 10, 3, "crop crop_width=7 crop_height=5", f"{CONV} filters=4"),
    "crop noadjust": net(11, 10, 3, "crop crop_width=8 crop_height=7 noadjust=1 flip=1", f"{CONV} filters=4"),
    "route": net(
        8, 8, 3, f"{CONV} filters=8", f"{CONV} filters=4", "route layers=-1,-2",
        "route layers=0,-2 groups=2 group_id=1", "route layers=-1,1,0 groups=2",
        "route layers=0,1,1 groups=4 group_id=2", "dropout probability=.5", "route layers=-1", "empty", "silence",
        "batchnorm",
        f"{CONV} filters=5", f"{CONV} filters=7", "route layers=-1,-2 groups=2 group_id=1",
    ),
    "shortcut": net(
        9, 7, 3, f"{CONV} filters=6", f"{CONV} filters=6", "shortcut from=-2 activation=leaky",
        f"{CONV} filters=6", "shortcut from=-2,-4,0 activation=swish", "shortcut from=0 activation=mish",
        "shortcut from=1,2 weights_type=per_channel weights_normalization=softmax activation=linear",
        "shortcut from=1 weights_type=per_channel weights_normalization=relu activation=relu",
        "shortcut from=1,2,3 weights_type=per_feature weights_normalization=avg_relu",
        "shortcut from=1,2,3 weights_type=per_layer weights_normalization=softmax",
        f"{CONV} filters=9", "shortcut from=-2,0", "convolutional filters=4 size=1 activation=linear",
        "shortcut from=-2", "shortcut from=0,1 weights_type=per_channel weights_normalization=relu activation=tanh",
    ),
    "gates": net(
        9, 7, 3, f"{CONV} filters=6", "avgpool", "convolutional filters=6 size=1 activation=logistic",
        "scale_channels from=0 activation=leaky", "convolutional filters=1 size=3 pad=1 activation=logistic",
        "scale_channels from=-2 scale_wh=1", "convolutional filters=6 size=1 activation=logistic",
        "sam from=-2 activation=relu", "activation activation=tanh", "activation activation=gelu",
        "implicit filters=6", "scale_channels from=-4", "implicit filters=3 atoms=4", "implicit filters=3 atoms=4",
        "shortcut from=-2",
    ),
    "normalization": net(
        9, 7, 3, f"{CONV} filters=11", "normalization alpha=.3", "lrn size=4 alpha=.1 beta=.5 kappa=2",
        "lrn size=3 alpha=.2", "normalization size=2 alpha=.1",
    ),
    "connected": net(
        6, 5, 3, f"{CONV} filters=4", "connected output=20 batch_normalize=1 activation=leaky", "conn output=12",
        "softmax groups=3 temperature=.7", "cost type=sse",
    ),
    "local": net(
        12, 11, 3, f"{CONV} filters=4", "local filters=5 size=3 stride=2 activation=leaky",
        "local filters=3 size=3 pad=1", "dropout", "connected output=8 activation=linear", "softmax",
    ),
    "yolo": net(
        8, 6, 3, "convolutional filters=24 size=1 activation=linear",
        f"yolo mask=0,1,2 classes=3 scale_x_y=1.05 {HEAD}", "route layers=0",
        f"yolo mask=1,2,3 classes=3 scale_x_y=2 new_coords=1 {HEAD}",
        "route layers=0", "convolutional filters=36 size=1 activation=linear",
        f"Gaussian_yolo mask=0,2,3 classes=3 scale_x_y=1.2 {HEAD}",
        "route layers=0", "convolutional filters=32 size=1 activation=linear", f"yolo classes=3 {HEAD}",
    ),
    "region": net(
        8, 6, 3, "convolutional filters=24 size=1 activation=linear",
        "region classes=3 coords=4 num=3 softmax=1 anchors=1,2,3,4,5,6", "route layers=0",
        "region classes=3 coords=4 num=3 anchors=1,2,3,4,5,6",
    ),
    "detection": net(
        8, 8, 3, f"{CONV} filters=4", "connected output=117 activation=linear",
        "detection classes=3 coords=4 num=2 side=3 softmax=1",
    ),
}  # fmt: skip


def everywhere(activation: str) -> str:
    """A small network with the activation in every kind of layer that has one."""
    a = f"activation={activation}"
    return net(
        6, 5, 3, f"convolutional batch_normalize=1 filters=5 size=3 pad=1 {a}", f"convolutional filters=4 size=1 {a}",
        f"activation {a}", f"sam from=-2 {a}", f"shortcut from=-2 {a}", "convolutional filters=1 size=1",
        f"scale_channels from=0 scale_wh=1 {a}", f"local filters=2 size=3 {a}", f"connected output=7 {a}",
    )  # fmt: skip


def relative_differences(
    cfg: Path, weights: Path, network: ReferenceNetwork, folder: Path, *, cpu_quirks: bool
) -> list[float]:
    """Runs both on one random image; per layer the largest difference over the largest value."""
    image = np.random.default_rng(1).uniform(0, 1, network.inputs).astype("<f4")
    (folder / "input.f32").write_bytes(image.tobytes())
    command = [str(REFDUMP), str(cfg), str(weights), str(folder / "input.f32"), str(folder / "out")]
    subprocess.run(command, check=True, capture_output=True)
    differences = []
    for index, ours in enumerate(forward(network, image, darknet_cpu_quirks=cpu_quirks)):
        theirs = np.fromfile(folder / "out" / f"{index}.f32", "<f4")
        assert ours.size == theirs.size, f"layer {index}"
        differences.append(float(abs(ours.reshape(-1) - theirs).max() / max(abs(theirs).max(), 1e-30)))
    return differences


CASES = SYNTHETIC | {f"activation {name}": everywhere(name) for name in ACTIVATIONS}


@pytest.mark.parametrize("name", CASES)
def test_synthetic_networks_agree_with_darknet(name: str, tmp_path: Path) -> None:
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(CASES[name])
    weights.write_bytes(random_weights(CASES[name], seed=7))
    network = load(CASES[name], weights)
    differences = relative_differences(cfg, weights, network, tmp_path, cpu_quirks=True)
    report(name, network, differences)
    assert max(differences) <= 1e-5, differences


def report(name: str, network: ReferenceNetwork, differences: list[float]) -> None:
    """Shown with pytest -s: the largest difference per kind."""
    worst: dict[str, float] = {}
    for layer, difference in zip(network.layers, differences, strict=True):
        worst[layer.kind] = max(worst.get(layer.kind, 0), difference)
    for kind, difference in worst.items():
        print(f"AGREEMENT {name}\t{kind}\t{difference:.2e}")


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted(CHECKPOINTS.glob("*")), ids=lambda folder: folder.name)
def test_checkpoints_agree_with_darknet(folder: Path, tmp_path: Path) -> None:
    (cfg,), (weights,) = folder.glob("*.cfg"), folder.glob("*.weights")
    network = load(cfg.read_text(), weights)
    differences = relative_differences(cfg, weights, network, tmp_path, cpu_quirks=True)
    report(folder.name, network, differences)
    assert max(differences) <= 1e-5, differences
