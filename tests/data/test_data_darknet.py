"""Darknet's .data files, lists, names and labels."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkprune.data import read_dataset
from darkprune.data.class_names import class_names, read_names
from darkprune.data.forms.darknet import find_label, label_path, read_data_file
from darkprune.data.forms.labels import read_label_file
from darkprune.data.scenes import CLASSES
from darkprune.errors import DataError
from darkprune.graph.graph import read_graph
from darkprune.zoo import resolve
from tests.conftest import SmallPair


def write(file: Path, content: str | bytes = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/train2017/a.jpg", "/d/labels/train2017/a.txt"),
        ("/d/images/val2014/a.JPEG", "/d/labels/val2014/a.txt"),
        ("/VOC2007/JPEGImages/a.png", "/VOC2007/labels/a.txt"),
        ("/d/images/a.jpg", "/d/images/a.txt"),  # plain images/ is not replaced by AlexeyAB's program
        ("images/val2017/a.jpg", "images/val2017/a.txt"),  # its pattern begins with a slash
        ("a.b.jpg", "a.b.txt"),
        ("a.jpg.png", "a.jpg.txt"),
        ("a.webp", "a.webp"),
        ("C:\\d\\images\\val2017\\a.bmp", "C:\\d\\labels\\val2017\\a.txt"),
        ("/JPEGImages/x/JPEGImages/a.tiff", "/labels/x/JPEGImages/a.txt"),  # each pattern once
        ("/d/a.jpg \t", "/d/a.txt"),
    ],
)
def test_label_path(image: str, label: str) -> None:
    assert label_path(image) == label


def test_label_fallbacks(tmp_path: Path) -> None:
    image = str(tmp_path / "images" / "x" / "a.jpg")
    assert find_label(image) == tmp_path / "images" / "x" / "a.txt"  # nothing exists: darknet's own
    plain = write(tmp_path / "labels" / "x" / "a.txt")
    assert find_label(image) == plain
    beside = write(tmp_path / "images" / "x" / "a.txt")
    assert find_label(image) == beside  # darknet's own comes first
    write(tmp_path / "labels" / "b.txt")
    assert find_label("images/b.webp", tmp_path) == tmp_path / "labels" / "b.txt"


def test_data_file_lexing(tmp_path: Path) -> None:
    text = "\n# comment\n;comment\r\nclasses = 3\r\nva lid= a b.txt\nvalid=second\nempty=\nnothing\nnames=n#x\n"
    data = read_data_file(write(tmp_path / "x.data", text))
    assert data.options == {"classes": "3", "valid": "ab.txt", "names": "n#x"}


def make_set(root: Path, lines: str = "images/a.jpg\nimages/b.jpg\n", extra: str = "") -> Path:
    write(root / "list.txt", lines)
    write(root / "c.names", "cat\ndog\n")
    write(root / "images" / "a.jpg", b"x")
    write(root / "images" / "b.jpg", b"x")
    write(root / "labels" / "a.txt", "0 .5 .5 .25 .5\n1 0.1 0.2 0.3 1e-1\n")
    return write(root / "x.data", f"classes=2\nvalid=list.txt\nnames=c.names\n{extra}")


def test_paths_beside_the_data_file(tmp_path: Path) -> None:
    dataset = read_dataset(make_set(tmp_path))
    assert dataset.class_names == ("cat", "dog")
    assert [record.path for record in dataset.images] == [tmp_path / "images" / n for n in ("a.jpg", "b.jpg")]
    objects = dataset.images[0].objects()
    assert objects.classes.tolist() == [0, 1]
    assert np.allclose(objects.boxes, [[0.5, 0.5, 0.25, 0.5], [0.1, 0.2, 0.3, 0.1]])
    assert objects.lines.tolist() == [1, 2]
    missing = dataset.images[1].labels.read()
    assert len(missing.objects) == 0
    assert [problem.kind for problem in missing.problems] == ["missing"]


def test_the_current_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_set(tmp_path / "there")
    write(tmp_path / "here" / "list.txt", "z.jpg\n")
    monkeypatch.chdir(tmp_path / "here")
    assert [record.path.name for record in read_dataset(data).images] == ["z.jpg"]


def test_windows_lines_and_blank_ones(tmp_path: Path) -> None:
    assert len(read_dataset(make_set(tmp_path, "images/a.jpg\r\n\r\nimages/b.jpg"))) == 2


def test_difficult_list(tmp_path: Path) -> None:
    data = make_set(tmp_path, extra="difficult=hard.list\n")
    write(tmp_path / "hard.list", "hard/a.jpg\nhard/b.jpg\n")
    write(tmp_path / "hard" / "a.txt", "1 .5 .5 .1 .1\n")
    objects = read_dataset(data).images[0].objects()
    assert objects.difficult.tolist() == [False, False, True]
    write(tmp_path / "hard.list", "hard/a.jpg\n")
    with pytest.raises(DataError, match="in pairs"):
        read_dataset(data)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("classes=1\n", "no `valid=` line"),
        ("valid=nowhere.txt\n", "valid=nowhere.txt points nowhere"),
        ("valid=list.txt\nnames=gone\n", "points nowhere"),
        ("", "no key=value"),
        ("valid=void.txt\n", "is empty"),
        ("\0", "binary"),
    ],
)
def test_data_files_that_lead_nowhere(tmp_path: Path, text: str, match: str) -> None:
    make_set(tmp_path)
    write(tmp_path / "void.txt", "\n \n")
    with pytest.raises(DataError, match=match):
        read_dataset(write(tmp_path / "x.data", text))


@pytest.mark.parametrize(
    ("text", "kept", "line"),
    [
        ("0 .1 .2 .3 .4\n", 1, None),
        ("0 .1 .2 .3 .4", 1, None),
        ("\n0\t.1 .2  .3 .4\r\n\n1 1 1 1 1\n", 2, None),
        ("0 .1 .2 .3 .4 .9\n", 1, 1),
        ("0 .1 .2 .3 .4 1 .1 .2 .3 .4\n", 2, None),  # a stream of numbers, as darknet reads it
        ("1 .1 .1 .3 .1 .3 .5 .1 .5\n", 1, 1),  # a polygon
        ("0 .1 .2 .3\n1 .1 .2 .3 .4\n", 1, 1),
        ("0,.1,.2,.3,.4\n1 .1 .2 .3 .4\n", 0, 1),
        ("0 .1 .2 .3\n", 0, 1),
        ("0 .1 .2 .3 .4\n0.0 .1 .2 .3 .4\n0 .1 .2 .3 .4\n", 3, 2),
        ("0 .1 .2 .3 nan\n", 0, 1),
        ("0 1_0 .2 .3 .4\n", 0, 1),
        ("\n\ncat .1 .2 .3 .4\n", 0, 3),
        ("", 0, None),
    ],
)
def test_label_lines(tmp_path: Path, text: str, kept: int, line: int | None) -> None:
    reading = read_label_file(write(tmp_path / "a.txt", text))
    assert len(reading.objects) == kept
    assert [problem.line for problem in reading.problems] == ([] if line is None else [line])


def test_a_long_line_of_digits_is_refused_quickly(tmp_path: Path) -> None:
    text = "0 " + " ".join(["1" * 40] * 3) + " x\n"
    assert read_label_file(write(tmp_path / "a.txt", text)).problems
    assert read_label_file(write(tmp_path / "a.txt", "9" * 100_000)).problems


def test_names(tmp_path: Path) -> None:
    names, problems = read_names(write(tmp_path / "n", "a b\r\n\nc\n\n"))
    assert names == ("a b", "", "c")
    assert [problem.line for problem in problems] == [4, 2]
    with pytest.raises(DataError, match="empty"):
        read_names(write(tmp_path / "n", "\n"))


def test_a_count_that_differs_from_the_names(tmp_path: Path) -> None:
    data = make_set(tmp_path)
    write(data, "classes=5\nvalid=list.txt\nnames=c.names\n")
    assert "classes=5" in str(read_dataset(data).problems[0])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120) | st.text("0123456789.-+e \n\t", max_size=80).map(str.encode))
def test_any_label_file_is_read_or_reported(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.txt"
    file.write_bytes(data)
    reading = read_label_file(file)
    assert reading.objects.boxes.shape == (len(reading.objects), 4)
    assert len(reading.objects) + len(reading.problems) >= bool(data.split())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=120) | st.text("valid=names\n;#./ é", max_size=60).map(str.encode))
def test_any_data_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.data"
    file.write_bytes(data)
    with contextlib.suppress(DataError):
        read_dataset(file)


def test_names_that_belong_to_a_network(small_pair: SmallPair) -> None:
    names = ("yolov4", "yolov4-voc", "scenes")
    own = {name: class_names(None, read_graph(resolve(f"builtin:{name}"))) for name in names}
    assert [len(found) for found in own.values()] == [80, 20, 6]
    assert own["scenes"] == CLASSES
    graph = read_graph(Path(small_pair.cfg))
    assert class_names(None, graph) == ()
    beside = Path(small_pair.cfg).with_suffix(".names")
    beside.write_text("cat\ndog\n")
    assert class_names(None, graph) == ("cat", "dog")
    other = small_pair.folder / "other.names"
    other.write_text("rat\nhog\n")
    assert class_names(str(other), graph) == ("rat", "hog")
