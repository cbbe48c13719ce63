"""The text of a cfg, and the blocks that the networks of `write_cfgs.py` are built from."""

from __future__ import annotations

HEAD = "# Written by tools/write_cfgs.py; change it there.\n"


class Network:
    """A cfg text that grows by sections and knows the number of its next layer."""

    def __init__(self, title: str, activation: str) -> None:
        self.activation = activation
        self.classes = 0
        self.layers = 0
        self._parts = [f"# {title}\n{HEAD}"]

    def net(self, size: int, batch: int, subdivisions: int, steps: str, max_batches: int, **more: object) -> None:
        """Writes [net]: input and the published training settings (stochastic gradient descent, steps)."""
        published = {"momentum": 0.9, "decay": 0.0005, "angle": 0, "saturation": 1.5, "exposure": 1.5, "hue": 0.1,
                     "learning_rate": 0.001, "burn_in": 1000, "max_batches": max_batches, "policy": "steps",
                     "steps": steps, "scales": "0.1,0.1"}  # fmt: skip
        sizes = {"batch": batch, "subdivisions": subdivisions, "width": size, "height": size, "channels": 3}
        self._section("net", sizes | published | more)

    def note(self, text: str) -> None:
        """Writes a comment that says where a stage begins."""
        self._parts.append(f"\n# ---- {text} (from layer {self.layers})\n")

    def add(self, name: str, **keys: object) -> int:
        """Writes a layer and returns its number; a key whose value is None is left out."""
        self._section(name, {key.rstrip("_"): value for key, value in keys.items() if value is not None})
        self.layers += 1
        return self.layers - 1

    def conv(
        self, filters: int, size: int = 1, stride: int = 1, groups: int | None = None, activation: str = ""
    ) -> int:
        """A convolution with batch normalisation; its padding keeps the map's size at stride 1."""
        return self.add("convolutional", batch_normalize=1, filters=filters, groups=groups, size=size, stride=stride,
                        pad=1, activation=activation or self.activation)  # fmt: skip

    def maxpool(self, size: int, stride: int) -> int:
        return self.add("maxpool", size=size, stride=stride)

    def route(self, *layers: int, **keys: int) -> int:
        """Joins layers: negative numbers count back from here, others are absolute."""
        return self.add("route", layers=",".join(map(str, layers)), **keys)

    def back(self, layer: int) -> int:
        """Returns the relative number of a layer, as seen from the next one."""
        return layer - self.layers

    def predict(self, count: int, head: str = "yolo", activation: str = "linear", **keys: object) -> int:
        """The convolution that predicts for a number of anchors, and its head."""
        filters = count * (self.classes + 5)
        self.add("convolutional", filters=filters, size=1, stride=1, pad=1, activation=activation)
        return self.add(head, **({"classes": self.classes} | keys))

    def _section(self, name: str, keys: dict[str, object]) -> None:
        self._parts.append(f"\n[{name}]\n" + "".join(f"{key}={value}\n" for key, value in keys.items()))

    def __str__(self) -> str:
        return "".join(self._parts)


# ---- blocks


def residual(n: Network, squeeze: int, width: int) -> None:
    """x + conv3x3(conv1x1(x))."""
    n.conv(squeeze)
    n.conv(width, 3)
    n.add("shortcut", from_=-3, activation="linear")


def darknet53(n: Network) -> tuple[int, int]:
    """Backbone of YOLOv3; returns the last layers at strides 8 and 16."""
    n.note("Darknet-53")
    n.conv(32, 3)
    taps = []
    for width, count in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        n.note(f"{count} residual blocks of {width} channels")
        n.conv(width, 3, stride=2)
        for _ in range(count):
            residual(n, width // 2, width)
        taps.append(n.layers - 1)
    return taps[2], taps[3]


def csp_stage(n: Network, width: int, count: int, inner: int, squeeze: int) -> int:
    """Halves the map, sends half of the channels through residual blocks and joins both halves."""
    n.note(f"cross-stage block with {count} residual blocks, {width} channels")
    n.conv(width, 3, stride=2)
    side = n.conv(inner)
    n.route(-2)
    n.conv(inner)
    for _ in range(count):
        residual(n, squeeze, inner)
    n.conv(inner)
    n.route(-1, n.back(side))
    return n.conv(width)


def cspdarknet53(n: Network, plain_start: bool = False) -> tuple[int, int]:
    """Backbone of YOLOv4; returns the last layers at strides 8 and 16."""
    n.note("CSPDarknet-53")
    n.conv(32, 3)
    if plain_start:
        n.note("1 residual block of 64 channels")
        n.conv(64, 3, stride=2)
        residual(n, 32, 64)
    else:
        csp_stage(n, 64, 1, inner=64, squeeze=32)
    ends = [csp_stage(n, w, count, w // 2, w // 2) for w, count in ((128, 2), (256, 8), (512, 8), (1024, 4))]
    return ends[1], ends[2]


def mobilenet(n: Network) -> tuple[int, int]:
    """MobileNet v1: depthwise 3x3, pointwise 1x1; returns the last layers at strides 8 and 16."""
    n.note("MobileNet v1")
    n.conv(32, 3, stride=2)
    taps, width = {}, 32
    steps = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
    for out, stride in steps:
        n.conv(width, 3, stride=stride, groups=width)
        taps[out] = n.conv(out)
        width = out
    return taps[256], taps[512]


def tiny_backbone(n: Network) -> int:
    """Convolutions and poolings down to stride 32; returns the last layer at stride 16."""
    for width in (16, 32, 64, 128):
        n.conv(width, 3)
        n.maxpool(2, 2)
    tap = n.conv(256, 3)
    n.maxpool(2, 2)
    n.conv(512, 3)
    n.maxpool(2, 1)
    return tap


def alternate(n: Network, narrow: int, count: int) -> int:
    """count convolutions: 1x1 to narrow, 3x3 to twice as much, 1x1 …"""
    for number in range(count):
        n.conv(narrow) if number % 2 == 0 else n.conv(2 * narrow, 3)
    return n.layers - 1


def spp(n: Network) -> None:
    """Spatial pyramid pooling: the map beside its 5x5, 9x9 and 13x13 maxima."""
    n.maxpool(5, 1)
    n.route(-2)
    n.maxpool(9, 1)
    n.route(-4)
    n.maxpool(13, 1)
    n.route(-1, -3, -5, -6)


def csp_neck(n: Network, width: int, pyramid: bool = False) -> int:
    """Cross-stage block of the neck: a short way beside a chain of four convolutions."""
    side = n.conv(width)
    n.route(-2)
    n.conv(width)
    n.conv(width, 3)
    n.conv(width)
    if pyramid:
        spp(n)
        n.conv(width)
    n.conv(width, 3)
    n.route(-1, n.back(side))
    return n.conv(width)


def enlarge(n: Network, width: int) -> None:
    """1x1 convolution, then twice the size."""
    n.conv(width)
    n.add("upsample", stride=2)
