"""The referee itself: hand-computed cases for darknet's quirks, and OpenCV's Darknet importer on a real checkpoint."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.assets import CHECKPOINTS, needs_assets

from . import forward, load, random_weights

CHECKPOINT = CHECKPOINTS / "yolo-fastest-1.1_coco"


def cfg(shape: tuple[int, int, int], *sections: str) -> str:
    """`maxpool size=2` is a section, its keys one per line. The first layer sees the image of this (c, h, w)."""
    c, h, w = shape
    lines = [f"[net]\nchannels={c}\nheight={h}\nwidth={w}"]
    for section in sections:
        name, *keys = section.split()
        lines.append("\n".join([f"[{name}]", *keys]))
    return "\n".join(lines)


def packed(*values: float, seen: int = 0) -> bytes:
    return struct.pack("<3iQ", 0, 2, 5, seen) + np.array(values, "<f4").tobytes()


def last(text: str, image: np.ndarray, weights: bytes | None = None, **options: object) -> np.ndarray:
    return forward(load(text, weights), image, **options)[-1]


def counting(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=float).reshape(shape)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("size=2 stride=2", [[4, 5], [7, 8]]),  # one row and column, right and bottom
        ("size=2 stride=1", [[4, 5, 5], [7, 8, 8], [7, 8, 8]]),
        ("size=3 stride=2", [[4, 5], [7, 8]]),  # one on every side
        ("size=2 stride=2 padding=0", [[4]]),
        ("stride=3 padding=3", [[4, 5], [7, 8]]),  # size defaults to stride; one top and left, two bottom and right
        ("size=2 stride_x=1 stride_y=2", [[4, 5, 5], [7, 8, 8]]),
    ],
)
def test_maxpool_pads_the_smaller_half_top_left(keys: str, expected: list[list[int]]) -> None:
    assert np.array_equal(last(cfg((1, 3, 3), f"maxpool {keys}"), counting(1, 3, 3))[0], expected)


def test_maxpool_padding_never_wins() -> None:
    image = -1 - counting(1, 3, 3)
    assert np.array_equal(last(cfg((1, 3, 3), "maxpool size=2 stride=2"), image)[0], [[-1, -3], [-7, -9]])


def test_local_avgpool_divides_by_the_cells_inside() -> None:
    text = cfg((1, 3, 3), "local_avgpool size=2 stride=2")
    assert np.array_equal(last(text, counting(1, 3, 3))[0], [[2, 3.5], [6.5, 8]])


def test_maxpool_depth_takes_every_nth_channel() -> None:
    image = np.array([5, 1, 2, 3, 9], float).reshape(5, 1, 1)
    text = cfg((5, 1, 1), "maxpool maxpool_depth=1 out_channels=2")
    assert last(text, image).ravel().tolist() == [9, 3]


def test_old_reorg_reads_memory_as_a_larger_image() -> None:
    reordered = last(cfg((4, 2, 2), "reorg stride=2"), counting(4, 2, 2))
    assert reordered.shape == (16, 1, 1)
    assert reordered.ravel().tolist() == [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]


def test_reorg3d_is_space_to_depth() -> None:
    reordered = last(cfg((2, 2, 2), "reorg3d stride=2"), counting(2, 2, 2))
    assert reordered.ravel().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@pytest.mark.parametrize(("first", "second"), [("reorg3d", "reorg"), ("reorg", "reorg3d")])
def test_reverse_of_one_reorg_inverts_the_other(first: str, second: str) -> None:
    image = counting(16, 4, 6)
    text = cfg((16, 4, 6), f"{first} stride=2", f"{second} stride=2 reverse=1")
    assert np.array_equal(last(text, image), image)


def test_route_slices_every_input_before_joining() -> None:
    halved = "maxpool maxpool_depth=1 out_channels=2"
    text = cfg((4, 1, 1), "activation", halved, "route layers=0,-1 groups=2 group_id=1")
    assert last(text, np.array([1, 2, 3, 4], float).reshape(4, 1, 1)).ravel().tolist() == [3, 4, 4]


def test_lrn_window_forgets_channel_two() -> None:
    text = cfg((4, 1, 1), "normalization size=5 alpha=1 beta=1 kappa=1")
    # Squares 1 4 9 16. The sum starts as 1+4; 16 enters at 1; nothing changes at 2; 1 leaves at 3; 9 was never there.
    expected = [1 / (1 + 5), 2 / (1 + 21), 3 / (1 + 21), 4 / (1 + 20)]
    assert np.allclose(last(text, np.array([1.0, 2, 3, 4]).reshape(4, 1, 1)).ravel(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("keys", "weights", "factor"),
    [
        ("weights_type=per_feature weights_normalization=relu", [1, -5], (1 + 2 * 0.001) / (1e-4 + 1.001)),
        ("weights_type=per_feature weights_normalization=softmax", [0, 0], (1 + 2) / (1e-4 + 2)),
        (
            "weights_type=per_channel weights_normalization=relu",
            [1, 2, 3, 3],
            np.array([[[7 / 4.0001]], [[8 / 5.0001]]]),
        ),
    ],
)
def test_weighted_shortcut_normalises_with_a_floor(keys: str, weights: list[float], factor: float | np.ndarray) -> None:
    image = counting(2, 2, 2)
    copied = "convolutional filters=2 groups=2 activation=linear"
    text = cfg((2, 2, 2), copied, "activation", "route layers=-1", copied, "route layers=1", f"shortcut from=-2 {keys}")
    result = last(text, image, packed(0, 0, 1, 1, 0, 0, 2, 2, *weights))
    assert np.allclose(result, factor * image, rtol=1e-6)


def test_shortcut_adds_a_prefix_of_channels() -> None:
    text = cfg((3, 1, 1), "activation", "maxpool maxpool_depth=1 out_channels=2", "route layers=0", "shortcut from=-2")
    assert last(text, np.array([1, 2, 5], float).reshape(3, 1, 1)).ravel().tolist() == [6, 4, 5]


def test_region_output_is_cell_major_with_raw_x_y() -> None:
    image = np.zeros((12, 1, 2))  # two anchors of x y w h obj class, two cells
    image[:, 0, 0], image[:, 0, 1] = np.arange(12), 100 + np.arange(12)
    image[[4, 10]] = 0
    cells = last(cfg((12, 1, 2), "region classes=1 num=2"), image).reshape(2, 2, 6)
    assert cells[0].tolist() == [[0, 1, 2, 3, 0.5, 5], [6, 7, 8, 9, 0.5, 11]]
    assert cells[1].tolist() == [[100, 101, 102, 103, 0.5, 105], [106, 107, 108, 109, 0.5, 111]]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("yolo scale_x_y=2", [0.5, 0.5, 0, 0, 0.5, 0.5]),
        ("yolo scale_x_y=2 new_coords=1", [-0.5, -0.5, 0, 0, 0, 0]),
        ("Gaussian_yolo scale_x_y=2", [0.5, 0.5, 0.5, 0.5, 0, 0.5, 0, 0.5, 0.5, 0.5]),
    ],
)
def test_yolo_squashes_and_scales(keys: str, expected: list[float]) -> None:
    c = len(expected)
    assert last(cfg((c, 1, 1), f"{keys} classes=1 num=1"), np.zeros((c, 1, 1))).ravel().tolist() == expected


def test_connected_stores_normalisation_behind_the_weights() -> None:
    text = cfg((2, 1, 1), "connected output=1 batch_normalize=1 activation=linear")
    bias, weights, scale, mean, variance = 0.5, (2.0, 3.0), 4.0, 1.0, 9.0
    result = last(text, np.array([[[1.0]], [[10.0]]]), packed(bias, *weights, scale, mean, variance), eps=0)
    assert result.ravel().tolist() == pytest.approx([(32 - mean) / 3 * scale + bias])


def test_convolution_stores_normalisation_before_the_weights() -> None:
    text = cfg((1, 1, 1), "convolutional filters=1 batch_normalize=1 activation=linear")
    result = last(text, np.full((1, 1, 1), 10.0), packed(0.5, 4, 1, 9, 2), eps=0)
    assert result.item() == pytest.approx((20 - 1) / 3 * 4 + 0.5)


def test_convolution_is_logistic_unless_told() -> None:
    assert last(cfg((1, 2, 2), "convolutional"), counting(1, 2, 2)).ravel().tolist() == [0.5] * 4


def test_grouped_dilated_convolution_by_hand() -> None:
    text = cfg((2, 5, 5), "convolutional filters=2 groups=2 size=3 dilation=2 pad=1 activation=linear")
    kernels = np.zeros((2, 1, 3, 3))
    kernels[0, 0, 0, 0] = kernels[1, 0, 1, 2] = 1  # two up and left; two right
    image = 1 + counting(2, 5, 5)
    result = last(text, image, packed(0, 0, *kernels.ravel()))
    assert np.array_equal(result[0, 2:, 2:], image[0, :3, :3])
    assert not result[0, :2].any()
    assert np.array_equal(result[1, :, :3], image[1, :, 2:])


def test_antialiasing_moves_the_stride_into_a_blur() -> None:
    text = cfg((1, 3, 3), "convolutional filters=1 stride=2 antialiasing=1 activation=linear")
    blurred = last(text, np.full((1, 3, 3), 16.0), packed(0, 1))
    assert blurred[0].tolist() == [[9, 9], [9, 9]]  # zeros outside: edges darken


def test_crop_is_central_and_spreads_the_range() -> None:
    cropped = last(cfg((1, 4, 5), "crop crop_height=2 crop_width=2"), counting(1, 4, 5))
    assert cropped[0].tolist() == [[11, 13], [21, 23]]


def test_negative_upsample_sums_blocks() -> None:
    assert last(cfg((1, 2, 2), "upsample stride=-2 scale=.5"), counting(1, 2, 2)).item() == 3


def test_local_keeps_a_kernel_per_pixel() -> None:
    text = cfg((1, 1, 2), "local filters=2 size=1 activation=linear")
    weights = packed(0, 1, 2, 3, 10, 20, 30, 40)  # biases [filter][pixel], weights [pixel][filter]
    assert last(text, np.array([[[1.0, 2.0]]]), weights).ravel().tolist() == [10, 61, 22, 83]


def test_sharing_layers_store_nothing() -> None:
    text = cfg((1, 1, 1), "convolutional activation=linear", "convolutional share_index=-1 activation=linear")
    assert last(text, np.ones((1, 1, 1)), packed(1, 3)).item() == 13


def test_forgotten_activations_are_zero_only_on_request() -> None:
    text = cfg((1, 1, 2), "activation activation=relu6")
    image = np.array([[[2.0, 9.0]]])
    assert last(text, image).ravel().tolist() == [2, 6]
    assert last(text, image, darknet_cpu_quirks=True).ravel().tolist() == [0, 0]


def test_held_channels_equal_channels_without_scale() -> None:
    text = cfg(
        (3, 6, 6),
        "convolutional filters=4 size=3 pad=1 batch_normalize=1 activation=leaky",
        "convolutional filters=4 size=3 pad=1 batch_normalize=1 activation=leaky",
        "shortcut from=-2",
        "convolutional filters=2 size=3 pad=1 activation=linear",
    )
    network = load(text, random_weights(text, 3))
    image = np.random.default_rng(0).uniform(0, 1, (3, 6, 6))
    mask = np.array([True, False, False, True])
    constants = np.where(network.layers[0].arrays["biases"] > 0, 1, 0.1) * network.layers[0].arrays["biases"]
    held = forward(network, image, hold={0: (mask, constants[mask])})
    assert np.array_equal(held[0][mask], np.broadcast_to(constants[mask][:, None, None], (2, 6, 6)))
    network.layers[0].arrays["scales"][mask] = 0
    unscaled = forward(network, image)
    assert np.allclose(held[-1], unscaled[-1], rtol=0, atol=1e-7)
    assert np.array_equal(held[-1], forward(network, image, hold={0: (mask, constants)})[-1])


@pytest.mark.parametrize("hold", [(np.ones(3, bool), np.ones(3)), (np.array([True, False]), np.ones(3))])
def test_hold_wants_one_value_per_channel(hold: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"h[eo]ld"):
        last(cfg((2, 1, 1), "activation"), np.ones((2, 1, 1)), hold={0: hold})


def test_lexer_follows_darknet() -> None:
    text = """; x
[network]
wid th = 9
width=3
height=8#x
channels=3.9
[conv]
fil ters = 4x
filters=9
size=
pad
pad=1
size=3 # three
[max]
stride=2;3
[route]
layers=-1 # a,-1"""
    network = load(text.replace("\n", "\r\n"), None)
    assert [(layer.kind, layer.shape) for layer in network.layers] == [
        ("convolutional", (4, 6, 7)),
        ("maxpool", (4, 3, 4)),
        ("route", (8, 3, 4)),
    ]


@pytest.mark.parametrize("values", [[1], [1, 2, 3]])
def test_weights_must_fit_exactly(values: list[float]) -> None:
    with pytest.raises(ValueError, match="float"):
        load(cfg((1, 1, 1), "convolutional"), packed(*values))


def test_old_header_has_a_short_counter() -> None:
    network = load(cfg((1, 1, 1), "convolutional"), struct.pack("<3iI2f", 0, 1, 0, 77, 5, 6))
    assert (network.seen, network.layers[0].arrays["weights"].item()) == (77, 6)


def test_ancient_connected_weights_are_input_major() -> None:
    values = struct.pack("<3iQ8f", 1001, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6)
    network = load(cfg((3, 1, 1), "connected output=2"), values)
    assert network.layers[0].arrays["weights"].tolist() == [[1, 3, 5], [2, 4, 6]]


def test_flipped_weights_are_transposed() -> None:
    network = load(cfg((3, 1, 1), "convolutional filters=2 flipped=1"), packed(0, 0, 1, 2, 3, 4, 5, 6))
    assert network.layers[0].arrays["weights"].reshape(2, 3).tolist() == [[1, 3, 5], [2, 4, 6]]


@pytest.mark.parametrize("kind", ["crnn", "rnn", "gru", "lstm", "conv_lstm", "history"])
def test_recurrent_kinds_are_refused(kind: str) -> None:
    with pytest.raises(NotImplementedError, match=kind):
        load(cfg((1, 4, 4), kind), None)


@needs_assets
def test_opencv_agrees_on_a_checkpoint() -> None:
    cv2 = pytest.importorskip("cv2")
    (text,), (weights,) = CHECKPOINT.glob("*.cfg"), CHECKPOINT.glob("*.weights")
    network = load(text.read_text(), weights)
    image = np.random.default_rng(5).uniform(0, 1, network.input_shape).astype(np.float32)
    ours = forward(network, image, eps=1e-6)  # OpenCV's epsilon
    theirs = cv2.dnn.readNetFromDarknet(str(text), str(weights))
    theirs.setInput(image[None])
    heads = [layer.index - 1 for layer in network.layers if layer.kind == "yolo"]
    for index, output in zip(heads, theirs.forward([f"conv_{index}" for index in heads]), strict=True):
        assert abs(output[0] - ours[index]).max() <= 1e-5 * abs(ours[index]).max()
