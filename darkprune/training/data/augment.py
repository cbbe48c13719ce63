"""darknet's augmentation of one image (`load_data_detection`, `image_data_augmentation`).

An image is cut out with random margins (negative ones are filled with the image's mean), stretched to the network's
input, flipped, and shifted in hue, saturation and brightness. Pixels stay 8-bit: they become 0…1 on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from darkprune.data.images import Pixels
from darkprune.graph.graph import Graph

Labels = npt.NDArray[np.float32]
"""(n, 5): class, cx, cy, w, h relative to the image."""

NO_LABELS: Labels = np.zeros((0, 5), np.float32)


@dataclass(frozen=True)
class Augmentation:
    """What to vary, named as in the cfg.

    Attributes:
        jitter: margins as a share of the image's sides.
        resize: further margins, so that the image is shown up to `resize` times larger or smaller.
        hue, saturation, exposure: shift of the hue; largest factor on (or divisor of) saturation and brightness.
        flip: mirror half of the images.
        mosaic: put four images together, for half of the examples.
        mosaic_bound: cut boxes at the seams of a mosaic.
        mixup: lay two images over each other, for half of the examples.
        blur, noise: `blur` (1: only the background, else size of the kernel) and `gaussian_noise`.
        letterbox: keep the aspect.
        limit: objects per image (`max`).
    """

    jitter: float = 0.2
    resize: float = 1.0
    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    flip: bool = True
    mosaic: bool = False
    mosaic_bound: bool = False
    mixup: bool = False
    blur: int = 0
    noise: int = 0
    letterbox: bool = False
    limit: int = 200


def read_augmentation(graph: Graph) -> Augmentation:
    """Reads [net] and the last detection head with darknet's defaults.

    Raises:
        CfgError: letter_box=1 with mosaic=1, which darknet refuses too; a resize that is not positive.
    """
    net = graph.net_options()
    head = graph.options(graph.heads[-1]) if graph.heads else None
    mosaic = net.flag("mosaic")
    resize = head.float("resize", 1.0) if head else 1.0
    if head and resize <= 0:
        raise head.error(f"resize={resize:g} makes no sense; 1 switches it off", "resize")
    if mosaic and graph.net.letter_box:
        raise net.error("letter_box=1 and mosaic=1 do not go together; switch one off", "mosaic")
    return Augmentation(
        jitter=head.float("jitter", 0.2) if head else 0.0,
        resize=resize,
        hue=net.float("hue", 0.0),
        saturation=net.float("saturation", 1.0),
        exposure=net.float("exposure", 1.0),
        flip=net.flag("flip", True),
        mosaic=mosaic,
        mosaic_bound=net.flag("mosaic_bound"),
        mixup=net.flag("mixup") and not mosaic,
        blur=net.int("blur"),
        noise=min(127, max(0, net.int("gaussian_noise"))),
        letterbox=graph.net.letter_box,
        limit=head.positive("max", 200) if head else 200,
    )


@dataclass(frozen=True)
class Cutout:
    """The part of an image to show, in its pixels; margins may be negative.

    Attributes:
        left, right, top, bottom: margins.
        flip: whether it is mirrored afterwards.
    """

    left: int
    right: int
    top: int
    bottom: int
    flip: bool

    def to_corner(self, corner: int) -> Cutout:
        """Moves the part so that the side that a mosaic shows starts at the image's edge.

        Args:
            corner: 0 left top, 1 right top, 2 left bottom, 3 right bottom of the mosaic.
        """
        left, right, top, bottom = self.left, self.right, self.top, self.bottom
        if (corner % 2 == 0) == self.flip:
            left, right = left + right, 0
        else:
            left, right = 0, left + right
        if corner < 2:
            top, bottom = 0, top + bottom
        else:
            top, bottom = top + bottom, 0
        return Cutout(left, right, top, bottom, self.flip)


def draw_cutout(random: np.random.Generator, width: int, height: int, what: Augmentation, aspect: float) -> Cutout:
    """Draws margins and mirroring.

    Args:
        width, height: of the image, in pixels.
        aspect: width/height of the network's input, for letterboxing.
    """
    down, up = min(what.resize, 1 / what.resize), max(what.resize, 1 / what.resize)
    jitter = random.random(4)
    scale = random.random(2)
    flip = bool(what.flip and random.integers(2))
    margins = []
    for side, (first, second) in ((width, (0, 1)), (height, (2, 3))):
        reach = int(side * what.jitter)
        low = int(side * (1 - 1 / down) / 2)
        high = 0 if what.resize < 1 else int(side * (1 - 1 / up) / 2)
        for draw, growth in zip(jitter[[first, second]], scale, strict=True):
            margins.append(int(int(draw * 2 * reach - reach) + growth * (high - low) + low))
    left, right, top, bottom = margins
    if what.letterbox:
        if width / height > aspect:
            extra = (width / aspect - height) / 2
            top, bottom = int(top - extra), int(bottom - extra)
        else:
            extra = (height * aspect - width) / 2
            left, right = int(left - extra), int(right - extra)
    return Cutout(left, right, top, bottom, flip)


def usable(cutout: Cutout, width: int, height: int) -> Cutout:
    """Returns the cutout, or the whole image where nothing of it would be left (darknet's "invalid resize")."""
    if (
        width - cutout.left - cutout.right <= 0
        or height - cutout.top - cutout.bottom <= 0
        or width - cutout.left <= 0
        or height - cutout.top <= 0
    ):
        return Cutout(0, 0, 0, 0, cutout.flip)
    return cutout


def cut_out(pixels: Pixels, cutout: Cutout, width: int, height: int) -> Pixels:
    """Cuts a part out of an image and stretches it: (height, width, c) uint8."""
    rows, columns = pixels.shape[:2]
    x, right, y, bottom = cutout.left, columns - cutout.right, cutout.top, rows - cutout.bottom
    part = pixels[max(0, y) : max(0, bottom), max(0, x) : max(0, right)]
    borders = (max(0, -y), max(0, bottom - rows), max(0, -x), max(0, right - columns))
    if not part.size:  # only margin is left
        part = np.broadcast_to(_mean(pixels), (bottom - y, right - x, pixels.shape[2])).astype(np.uint8)
    elif any(borders):
        part = _keep_channels(
            cv2.copyMakeBorder(part, *borders, cv2.BORDER_CONSTANT, value=_mean(pixels).tolist()), pixels.shape[2]
        )
    sized = _keep_channels(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), pixels.shape[2])
    return _keep_channels(cv2.flip(sized, 1), pixels.shape[2]) if cutout.flip else sized


def move_labels(
    labels: Labels,
    cutout: Cutout,
    image: tuple[int, int],
    size: tuple[int, int],
    limit: int,
    random: np.random.Generator,
) -> Labels:
    """Moves an image's labels into its cutout (`fill_truth_detection`, `correct_boxes`).

    Objects that are outside, or smaller than one pixel of the network's input, are dropped. The order is drawn anew,
    so that not always the same objects are beyond the limit.

    Args:
        labels: relative to the image.
        image: width and height of the image, in pixels.
        size: of the network's input.
        limit: most objects that are looked at.
    """
    labels = labels[random.permutation(len(labels))]
    centre, sides = labels[:, 1:3], labels[:, 3:5]
    low, high = centre - sides / 2, centre + sides / 2
    inside = (high >= 0).all(axis=1) & (low <= 1).all(axis=1) & (centre != 0).any(axis=1)
    shown = np.array([image[0] - cutout.left - cutout.right, image[1] - cutout.top - cutout.bottom], np.float32)
    scale = np.array(image, np.float32) / shown
    shift = np.array([cutout.left, cutout.top], np.float32) / shown
    low, high = low * scale - shift, high * scale - shift
    if cutout.flip:
        low[:, 0], high[:, 0] = 1 - high[:, 0], 1 - low[:, 0]
    low, high = low.clip(0, 1), high.clip(0, 1)
    centre, sides = (low + high) / 2, (high - low).clip(0, 1)
    large = (sides >= 1 / np.array(size, np.float32)).all(axis=1)
    placed = ((centre > 0) & (centre <= 1)).all(axis=1)
    first = np.arange(len(labels)) < limit
    moved = np.concatenate([labels[:, :1], centre, sides], axis=1)
    return np.asarray(moved[inside & large & placed & first], np.float32)


def draw_colours(random: np.random.Generator, what: Augmentation) -> tuple[float, float, float]:
    """Draws hue shift, factor on saturation, factor on brightness."""
    hue = random.uniform(-what.hue, what.hue) if what.hue else 0.0
    return float(hue), _draw_factor(random, what.saturation), _draw_factor(random, what.exposure)


def shift_colours(pixels: Pixels, hue: float, saturation: float, exposure: float) -> Pixels:
    """Changes hue (part of the circle), saturation and brightness in 8-bit HSV; grayscale only in brightness."""
    if pixels.shape[2] != 3:
        return pixels if exposure == 1 else _keep_channels(cv2.convertScaleAbs(pixels, alpha=exposure), pixels.shape[2])
    if hue == 0 and saturation == 1 and exposure == 1:
        return pixels
    levels = np.arange(256, dtype=np.float64)
    table = np.stack([levels + 179 * hue, levels * saturation, levels * exposure], axis=-1)
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv = cv2.LUT(hsv, np.rint(table).clip(0, 255).astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def disturb(pixels: Pixels, labels: Labels, what: Augmentation, random: np.random.Generator) -> Pixels:
    """Blurs the image or its background, and adds noise, where the cfg asks for it."""
    channels = pixels.shape[2]
    if what.blur and (kind := int(random.integers(3))):
        pixels = _blurred(pixels, labels, 1 if kind == 1 else what.blur)
    if what.noise and random.integers(2):
        noise = random.normal(0, what.noise, pixels.shape).clip(0, 255)  # an 8-bit matrix holds no negative noise
        pixels = np.asarray(cv2.add(pixels, noise.astype(np.uint8)), np.uint8)
    return _keep_channels(pixels, channels)


def _blurred(pixels: Pixels, labels: Labels, blur: int) -> Pixels:
    rows, columns = pixels.shape[:2]
    if blur > 1:
        sides = labels[:, 3:5] * np.array([columns, rows], np.float32)
        # no kernel larger than an eighth of the smallest object
        blur = min(blur, int(sides.min() / 8)) if len(labels) else blur
        size = blur // 2 * 2 + 1
        return pixels if blur < 1 else np.asarray(cv2.GaussianBlur(pixels, (size, size), 0), np.uint8)
    blurred = np.asarray(cv2.GaussianBlur(pixels, (17, 17), 0), np.uint8).reshape(pixels.shape)
    for box in labels[:, 1:]:
        left, top = (int(v) for v in (box[:2] - box[2:] / 2) * (columns, rows))
        right, bottom = left + int(box[2] * columns), top + int(box[3] * rows)
        area = np.s_[max(0, top) : bottom, max(0, left) : right]
        blurred[area] = pixels[area]
    return blurred


def _draw_factor(random: np.random.Generator, largest: float) -> float:
    """Draws from 1…largest, or one over that (`rand_scale`)."""
    if largest == 1:
        return 1.0
    factor = max(1e-3, float(random.uniform(min(1.0, largest), max(1.0, largest))))
    return factor if random.integers(2) else 1 / factor


def _mean(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Returns the mean colour, of every 16th pixel: all of them would take longer than the rest of the work."""
    pixels = np.ascontiguousarray(pixels[::4, ::4])
    return np.asarray(cv2.mean(pixels)[: pixels.shape[2]], np.float64)


def _keep_channels(pixels: npt.NDArray[np.generic], channels: int) -> Pixels:
    """Restores the last axis, which OpenCV drops for one channel."""
    return np.asarray(pixels, np.uint8).reshape(*pixels.shape[:2], channels)
