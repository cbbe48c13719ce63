"""Decoding and resizing: against slow loops that follow darknet's description, and against torch."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.data.image_headers import stored_size, truncation
from darkprune.data.images import check_image, image_size, letterbox, letterbox_size, read_image, resize, to_planes
from darkprune.errors import DataError

F = np.float32


def slow_resize(planes: np.ndarray, width: int, height: int) -> np.ndarray:
    """darknet's two passes, pixel by pixel, every operation rounded to 32 bits."""
    c, h, w = planes.shape
    if (w, h) == (width, height):
        return planes.copy()
    x_step, y_step = F(w - 1) / F(width - 1), F(h - 1) / F(height - 1)
    part = np.zeros((c, h, width), F)
    out = np.zeros((c, height, width), F)
    for x in range(width):
        position = F(x) * x_step
        left = int(position)
        if x == width - 1 or w == 1:
            part[:, :, x] = planes[:, :, w - 1]
        else:
            d = F(position - F(left))
            part[:, :, x] = (F(1) - d) * planes[:, :, left] + d * planes[:, :, left + 1]
    for y in range(height):
        position = F(y) * y_step
        top = int(position)
        d = F(position - F(top))
        out[:, y] = (F(1) - d) * part[:, top]
        if y != height - 1 and h != 1:
            out[:, y] += d * part[:, top + 1]
    return out


def pixels_of(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(2, 60), st.integers(2, 60), st.sampled_from([1, 3]))
def test_resize_is_bit_for_bit_the_loop(height: int, width: int, to_width: int, to_height: int, channels: int) -> None:
    pixels = pixels_of(height * 71 + width, height, width, channels)
    assert np.array_equal(resize(pixels, to_width, to_height), slow_resize(to_planes(pixels), to_width, to_height))


def test_the_slip_in_the_last_row_is_kept() -> None:
    # 319 · float32(7 − 1)/319 is a hair below 6, so that darknet weights the last row with almost nothing
    white = np.full((7, 20, 3), 255, np.uint8)
    out = resize(white, 320, 320)
    assert out[:, -1].max() < 1e-5
    assert out[:, :-1].min() > 0.999


@pytest.mark.parametrize(("height", "width"), [(384, 512), (480, 640), (33, 91), (512, 340)])
def test_resize_is_align_corners(height: int, width: int) -> None:
    torch = pytest.importorskip("torch")
    pixels = pixels_of(3, height, width)
    tensor = torch.from_numpy(to_planes(pixels))[None]
    expected = torch.nn.functional.interpolate(tensor, (320, 416), mode="bilinear", align_corners=True)[0].numpy()
    # both round positions to 32 bits, up to 2e-5 of a pixel apart
    assert np.abs(resize(pixels, 416, 320)[:, :-1] - expected[:, :-1]).max() < 1e-4


def test_resize_writes_into_a_given_array() -> None:
    pixels = pixels_of(1, 30, 40)
    out = np.empty((3, 32, 32), np.float32)
    assert resize(pixels, 32, 32, out) is out
    assert np.array_equal(out, resize(pixels, 32, 32))
    same = np.empty((3, 30, 40), np.float32)
    assert np.array_equal(resize(pixels, 40, 30, same), to_planes(pixels))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([(32, 32), (64, 32), (32, 96)]))
def test_letterbox(height: int, width: int, net: tuple[int, int]) -> None:
    pixels = pixels_of(height * 91 + width, height, width)
    inner_width, inner_height = letterbox_size(width, height, *net)
    expected = np.full((3, net[1], net[0]), 0.5, np.float32)
    if inner_width > 1 and inner_height > 1:
        x, y = (net[0] - inner_width) // 2, (net[1] - inner_height) // 2
        inner = slow_resize(to_planes(pixels), inner_width, inner_height)
        expected[:, y : y + inner_height, x : x + inner_width] = inner
        assert np.array_equal(letterbox(pixels, *net), expected)
    assert letterbox(pixels, *net).shape == expected.shape


def test_letterbox_size_divides_as_integers() -> None:
    assert letterbox_size(640, 427, 416, 416) == (416, 277)  # 277.55 is cut
    assert letterbox_size(427, 640, 416, 416) == (277, 416)
    assert letterbox_size(100, 100, 320, 192) == (192, 192)


def test_resize_takes_a_few_milliseconds() -> None:
    pixels = pixels_of(0, 384, 512)
    resize(pixels, 416, 416)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        resize(pixels, 416, 416)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.04  # 3.3 ms on an idle core; the bound only catches a fall back to loops


def encode(kind: str, pixels: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(kind, pixels[:, :, ::-1], list(options))[1])


@pytest.mark.parametrize("kind", [".png", ".bmp", ".ppm", ".tiff"])
def test_lossless_files_come_back_as_rgb(tmp_path: Path, kind: str) -> None:
    pixels = pixels_of(5, 11, 7)
    file = tmp_path / f"a{kind}"
    file.write_bytes(encode(kind, pixels))
    assert np.array_equal(read_image(file), pixels)
    assert read_image(file, 1).shape == (11, 7, 1)


PROGRESSIVE = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTS = (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)


@pytest.mark.parametrize("options", [(), PROGRESSIVE, RESTARTS])
def test_a_jpeg_cut_anywhere_is_truncated(options: tuple[int, ...]) -> None:
    data = encode(".jpg", pixels_of(2, 40, 40), *options)
    assert truncation(data) is None
    assert truncation(data + b"trailing \xff\xda junk of a phone") is None
    for length in range(2, len(data), 7):
        assert truncation(data[:length]) is not None
    assert truncation(data[:-1]) is not None


def test_a_thumbnail_does_not_hide_truncation() -> None:
    whole = encode(".jpg", pixels_of(2, 40, 40))
    thumbnail = encode(".jpg", pixels_of(3, 8, 8))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    nested = whole[:2] + segment + whole[2:]
    assert truncation(nested) is None
    assert truncation(nested[: len(nested) - 30]) is not None


@pytest.mark.parametrize("kind", [".png", ".bmp", ".webp"])
def test_other_truncated_files(tmp_path: Path, kind: str) -> None:
    data = encode(kind, pixels_of(4, 32, 32))
    assert truncation(data) is None
    file = tmp_path / f"a{kind}"
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="truncated"):
        read_image(file)


@pytest.mark.parametrize("options", [(), PROGRESSIVE, RESTARTS])
def test_a_jpeg_without_its_last_bytes_decodes(tmp_path: Path, options: tuple[int, ...]) -> None:
    pixels = np.full((64, 64, 3), 200, np.uint8)
    pixels[:8] = pixels_of(2, 8, 64)
    file = tmp_path / "a.jpg"
    file.write_bytes(encode(".jpg", pixels, *options)[:-2])
    whole = cv2.imdecode(np.frombuffer(encode(".jpg", pixels, *options), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(read_image(file), whole[:, :, ::-1])
    assert "decoded all the same" in str(check_image(file))


def test_half_a_jpeg_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    data = encode(".jpg", pixels_of(2, 64, 64))
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="truncated JPEG"):
        read_image(file)


def test_a_bmp_that_says_two_bytes_too_many_decodes(tmp_path: Path) -> None:
    pixels = pixels_of(3, 9, 7)
    data = bytearray(encode(".bmp", pixels))
    data[2:6] = (len(data) + 2).to_bytes(4, "little")
    (tmp_path / "a.bmp").write_bytes(data)
    assert np.array_equal(read_image(tmp_path / "a.bmp"), pixels)


@pytest.mark.parametrize(("bits", "brightest"), [(16, 255), (12, 255), (10, 255), (8, 255)])
@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_values_of_16_bits_are_scaled(tmp_path: Path, bits: int, brightest: int, kind: str) -> None:
    values = np.linspace(0, (1 << bits) - 1, 96).astype(np.uint16).reshape(8, 12)
    (tmp_path / f"a{kind}").write_bytes(bytes(cv2.imencode(kind, values)[1]))
    found = read_image(tmp_path / f"a{kind}", 1)
    assert (found.min(), found.max()) == (0, brightest)
    assert np.array_equal(found[:, :, 0], values >> (bits - 8))


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".tiff", ".webp", ".ppm", ".gif"])
def test_the_size_is_known_before_decoding(kind: str) -> None:
    if not cv2.haveImageWriter(f"x{kind}"):
        pytest.skip(f"this OpenCV writes no {kind}")  # GIF since 4.11
    assert stored_size(encode(kind, pixels_of(5, 21, 34))) == (34, 21)


def test_an_image_of_enormous_size_is_not_decoded(tmp_path: Path) -> None:
    data = bytearray(encode(".png", pixels_of(5, 8, 8)))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match="30000x30000 pixels"):
        read_image(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path / "a.jpg")


def test_images_are_turned_as_their_tag_says(tmp_path: Path) -> None:
    pixels = pixels_of(6, 16, 24)
    data = encode(".jpg", pixels)
    tiff = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    turned = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    (tmp_path / "a.jpg").write_bytes(turned)
    (tmp_path / "upright.jpg").write_bytes(data)
    upright = read_image(tmp_path / "upright.jpg")
    assert np.array_equal(read_image(tmp_path / "a.jpg"), np.rot90(upright, -1))
    assert image_size(tmp_path / "a.jpg") == (16, 24)


def test_what_is_no_image(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    with pytest.raises(DataError, match="no such file"):
        read_image(file)
    file.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        read_image(file)
    file.write_bytes(b"this is text")
    with pytest.raises(DataError, match="not an image"):
        read_image(file)
    with pytest.raises(DataError, match="2"):
        read_image(file, 2)
    with pytest.raises(DataError, match="directory"):
        read_image(tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF"]))
def test_any_bytes_are_an_image_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, head: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.img"
    file.write_bytes(head + tail)
    with contextlib.suppress(DataError):
        assert read_image(file).ndim == 3
