"""Data sets as other tools lay them out: folders, YAML, lists made on Windows."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from darkprune.data import read_dataset
from darkprune.data.check import check_dataset
from darkprune.data.forms.darknet import find_label
from darkprune.data.forms.ultralytics import read_yaml
from darkprune.data.image_files import images_of
from darkprune.errors import DataError

CASES = Path(__file__).parents[3] / "shared" / "cases"
NAMES = ["red", "green"]
XML = (
    "<annotation><size><width>20</width><height>10</height></size><object><name>{}</name><bndbox><xmin>3</xmin>"
    "<ymin>2</ymin><xmax>13</xmax><ymax>7</ymax></bndbox></object></annotation>"
)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((10, 20, 3), np.uint8))
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def labelled(root: Path, images: str, labels: str, number: int) -> None:
    """An image with one object of class `number`."""
    image(root / images / f"{number}.jpg")
    text(root / labels / f"{number}.txt", f"{number} .5 .5 .2 .2\n")


def classes_of(root: Path, split: str = "valid") -> list[str]:
    """The class names of all objects, image by image."""
    dataset = read_dataset(root, split)
    return [dataset.class_names[number] for record in dataset.images for number in record.objects().classes]


@pytest.mark.parametrize(("annotations", "images"), [("annotations", "images"), ("Annotations", "images"), (".", ".")])
def test_voc_in_other_folders(tmp_path: Path, annotations: str, images: str) -> None:
    for number, name in enumerate(NAMES):
        image(tmp_path / images / f"{number}.png")
        text(tmp_path / annotations / f"{number}.xml", XML.format(name))
    assert classes_of(tmp_path) == NAMES
    assert read_dataset(tmp_path).form == "Pascal VOC"
    assert check_dataset(read_dataset(tmp_path), 2) == []


def voc(root: Path, names: list[str] = NAMES) -> None:
    for number, name in enumerate(names):
        image(root / "JPEGImages" / f"{number}.png")
        text(root / "Annotations" / f"{number}.xml", XML.format(name))


@pytest.mark.parametrize(
    ("listings", "train", "valid"),
    [
        ({"ImageSets/Main/default.txt": "0\n1\n"}, NAMES, NAMES),  # CVAT: no splits
        ({"ImageSets/Main/train.txt": "0\n", "ImageSets/Main/val.txt": "1\n"}, ["red"], ["green"]),
        ({"ImageSets/train.txt": "0\n", "ImageSets/test.txt": "1\n"}, ["red"], ["green"]),
    ],
)
def test_voc_image_sets(tmp_path: Path, listings: dict[str, str], train: list[str], valid: list[str]) -> None:
    voc(tmp_path)
    for name, content in listings.items():
        text(tmp_path / name, content)
    assert (classes_of(tmp_path, "train"), classes_of(tmp_path)) == (train, valid)
    assert read_dataset(tmp_path).has_splits == (train != valid)


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    voc(tmp_path / "voc")
    text(tmp_path / "voc" / "ImageSets" / "Main" / "train.txt", "0\n")
    with pytest.raises(DataError, match=r"no image set for the split `valid` \(val.txt\); it has train"):
        read_dataset(tmp_path / "voc")
    labelled(tmp_path / "one", "train", "train", 0)
    with pytest.raises(DataError, match="no folder for the split `valid`; it has train"):
        read_dataset(tmp_path / "one")


def test_sets_inside_a_folder_are_named(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / year)
    with pytest.raises(DataError, match="data sets lie in VOC2007/ and VOC2012/"):
        read_dataset(tmp_path)


def test_images_without_any_label_are_no_labelled_set(tmp_path: Path) -> None:
    image(tmp_path / "images" / "0.jpg")
    with pytest.raises(DataError, match="holds images, but no labels"):
        read_dataset(tmp_path)


def test_splits_are_told_by_the_beginning_of_a_word(tmp_path: Path) -> None:
    """images/trainval2017 is no validation set, and test images are none where there are others."""
    for number, folder in enumerate(("trainval2017", "val2017", "test2017")):
        labelled(tmp_path, f"images/{folder}", f"labels/{folder}", number)
    assert [record.path.stem for record in read_dataset(tmp_path).images] == ["1"]
    assert [record.path.stem for record in read_dataset(tmp_path, "train").images] == ["0"]


def test_label_studio(tmp_path: Path) -> None:
    """Its YOLO export has a notes.json that is no COCO file; its COCO export has paths of its own machine."""
    labelled(tmp_path / "yolo", "images", "labels", 0)
    text(tmp_path / "yolo" / "classes.txt", "red\ngreen\n")
    text(tmp_path / "yolo" / "notes.json", json.dumps({"categories": [{"id": 0, "name": "red"}], "info": {}}))
    assert classes_of(tmp_path / "yolo") == ["red"]
    file = "../../label-studio/data/media/upload/1/a.jpg"
    coco(tmp_path / "coco", images=[{"id": 5, "file_name": file, "width": 20, "height": 10}])
    (record,) = read_dataset(tmp_path / "coco").images
    assert record.path.exists()


def test_cvat_coco(tmp_path: Path) -> None:
    """annotations/instances_default.json is the whole set; one that is named for a split is not the other split."""
    (tmp_path / "annotations").mkdir()
    file = coco(tmp_path).rename(tmp_path / "annotations" / "instances_default.json")
    assert classes_of(tmp_path) == classes_of(tmp_path, "train") == ["green"]
    assert not read_dataset(tmp_path).has_splits
    file.rename(tmp_path / "annotations" / "instances_train2017.json")
    assert classes_of(tmp_path, "train") == ["green"]
    with pytest.raises(DataError):
        read_dataset(tmp_path)


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_labels_with_names_take_the_network_s_order(form: str, tmp_path: Path) -> None:
    """Sorted by name, or by COCO's ids, class 0 would be another than the network's."""
    if form == "voc":
        voc(tmp_path / "set")
    else:
        coco(tmp_path / "set")
    order = text(tmp_path / "net.names", "blue\nred\ngreen\n")
    dataset = read_dataset(tmp_path / "set", network_names=order)
    assert dataset.class_names == ("blue", "red", "green")
    expected = [1, 2] if form == "voc" else [2]
    assert [number for record in dataset.images for number in record.objects().classes] == expected
    other = text(tmp_path / "other.names", "blue\nred\n")  # of another network
    assert set(read_dataset(tmp_path / "set", network_names=other).class_names) == set(NAMES)


def test_numbers_that_mean_other_classes_than_the_network_s(tmp_path: Path) -> None:
    labelled(tmp_path, "obj", "obj", 0)
    text(tmp_path / "obj.names", "red\ngreen\n")
    text(tmp_path / "list.txt", "obj/0.jpg\n")
    data = text(tmp_path / "x.data", "classes = 2\nvalid = list.txt\nnames = obj.names\n")
    order = text(tmp_path / "net.names", "green\nred\n")
    assert "class 0 is 'red' here but 'green' in" in str(read_dataset(data, network_names=order).problems[0])
    assert read_dataset(data, network_names=tmp_path / "obj.names").problems == ()


def test_voc_in_a_folder_per_split(tmp_path: Path) -> None:
    for folder, name in zip(("train", "valid"), NAMES, strict=True):
        image(tmp_path / folder / "0.jpg")
        text(tmp_path / folder / "0.xml", XML.format(name))
    assert (classes_of(tmp_path, "train"), classes_of(tmp_path)) == (["red"], ["green"])
    assert read_dataset(tmp_path).class_names == ("green", "red")  # those of all splits


def test_labels_beside_the_images_of_a_split(tmp_path: Path) -> None:
    for number, folder in enumerate(("train", "valid")):
        labelled(tmp_path, folder, folder, number)
        text(tmp_path / folder / "_darknet.labels", "red\ngreen\n")
    assert (classes_of(tmp_path, "train"), classes_of(tmp_path)) == (["red"], ["green"])
    assert read_dataset(tmp_path).has_splits
    assert classes_of(tmp_path / "train") == ["red"]  # one of them alone is a set too


@pytest.mark.parametrize("names", ["[red, 'green']", "\n  0: red\n  1: green", "\n- red\n- green", "['red',\n green]"])
@pytest.mark.parametrize("prefix", ["", "../"])
def test_ultralytics(tmp_path: Path, names: str, prefix: str) -> None:
    labelled(tmp_path, "train/images", "train/labels", 0)
    labelled(tmp_path, "valid/images", "valid/labels", 1)
    text(
        tmp_path / "data.yaml",
        f"# made by a tool\ntrain: {prefix}train/images # 1\nval: {prefix}valid/images\nnc: 2\nnames: {names}\n",
    )
    assert (classes_of(tmp_path, "train"), classes_of(tmp_path)) == (["red"], ["green"])
    assert classes_of(tmp_path / "data.yaml") == ["green"]
    with pytest.raises(DataError, match="no `night:`"):
        read_dataset(tmp_path / "data.yaml", "night")


def test_yaml_with_blocks_of_text_and_paths_of_windows(tmp_path: Path) -> None:
    labelled(tmp_path, "images/train", "labels/train", 0)
    content = "path: D:\\sets\\mine\ntrain: images\\train\nval: C:\\sets\\val\ntest: # none\nnames: [red, green]\n"
    file = text(tmp_path / "x.yaml", content + "download: |\n  import a\n\n  b(c, ['d'])\nnc: 2\n")
    assert classes_of(file, "train") == ["red"]
    with pytest.raises(DataError, match="is a path of a Windows machine"):
        read_dataset(file)
    assert read_yaml(file)["nc"] == "2"


def test_yaml_that_is_none_of_a_data_set(tmp_path: Path) -> None:
    assert read_yaml(text(tmp_path / "a.yaml", "a: 'x, y'\nb: {c: 1, d: [2]}\n"))["a"] == "x, y"
    for content in ("- a\n", "just words\n", ": 1\n"):
        with pytest.raises(DataError, match="no YAML of a data set"):
            read_yaml(text(tmp_path / "a.yaml", content))


def test_long_yaml_is_read_in_the_time_of_its_length(tmp_path: Path) -> None:
    """Joined lines, entries and blanks each once took the square of their number."""
    began = time.process_time()
    for content in ("a: [" + "\nb," * 200_000 + "]", "a:" + "\n- b" * 200_000, f"a{' ' * 400_000}: b"):
        assert "a" in read_yaml(text(tmp_path / "a.yaml", content))
    with pytest.raises(DataError):
        read_yaml(text(tmp_path / "a.yaml", f"a{' ' * 400_000}"))
    many = read_yaml(text(tmp_path / "a.yaml", "a:\n" + "".join(f"  k{number}: b\n" for number in range(100_000))))
    assert len(many["a"]) == 100_000
    assert time.process_time() - began < 8


@pytest.mark.parametrize("count", ["9" * 5000, "²", "7"])
def test_a_number_of_classes_that_is_not_that_of_the_names(count: str, tmp_path: Path) -> None:
    image(tmp_path / "images" / "val" / "a.png")
    path = text(tmp_path / "data.yaml", f"val: images/val\nnc: {count}\nnames: {{0: cat, ²: dog}}\n")
    found = read_dataset(path)
    assert found.class_names == ("cat",)
    assert [str(problem)[:200] for problem in found.problems if "names" in str(problem)] == (
        [] if count == "²" else [f"{path}: says nc: {count[:20]} but has 1 names"]
    )


@pytest.mark.parametrize(
    ("image", "label"),
    [("images/a.png", "labels/a.txt"), ("x/images/images/a.png", "x/images/labels/a.txt"),
     ("images/images/a.png", "images/labels/a.txt"), ("images/myimages/a.png", "labels/myimages/a.txt")],
)  # fmt: skip
def test_the_last_images_folder_counts(image: str, label: str, tmp_path: Path) -> None:
    text(tmp_path / label, "")
    assert find_label(image, tmp_path) == tmp_path / label
    began = time.process_time()
    find_label("images/" * 100_000 + "a.png")
    assert time.process_time() - began < 2


def test_cvat_s_paths_lead_through_a_folder_that_is_not_there(tmp_path: Path) -> None:
    labelled(tmp_path, "obj_train_data", "obj_train_data", 1)
    text(tmp_path / "obj.names", "red\ngreen\n")
    text(tmp_path / "train.txt", "data/obj_train_data/1.jpg\n")
    text(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    assert classes_of(tmp_path, "train") == ["green"]
    assert [problem.kind for problem in read_dataset(tmp_path, "train").problems] == ["list"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("obj\\0.jpg", "backslashes"),
        ("obj/0.jpg  ", "blanks"),
        ("data/obj/0.jpg", "data/"),
        ('"obj/0.jpg"', "quotation marks"),
    ],
)
def test_lists_of_other_machines(tmp_path: Path, line: str, says: str) -> None:
    labelled(tmp_path, "obj", "obj", 0)
    listing = text(tmp_path / "list.txt", f"{line}\r\n")
    dataset = read_dataset(listing)
    assert len(dataset.images[0].objects()) == 1
    assert says in str(dataset.problems[0])
    assert images_of(listing) == (dataset.images[0].path,)
    for encoding in ("utf-16", "utf-16-le"):
        listing.write_text(f"{line}\n", encoding=encoding)
        assert len(read_dataset(listing).images[0].objects()) == 1


@pytest.mark.parametrize(
    ("line", "says"), [("C:\\d\\0.jpg", "Windows"), ("d/0.jpg 1,2,3,4,0", "go on after the name of an image")]
)
def test_lines_that_lead_nowhere_have_a_cause(line: str, says: str, tmp_path: Path) -> None:
    listing = text(tmp_path / "list.txt", f"{line}\n")
    assert says in str(read_dataset(listing).problems[0])
    with pytest.raises(DataError, match=rf"not one of its 1 images is there.*{says}"):
        images_of(listing)


def test_a_list_of_one_name_half_a_million_times(tmp_path: Path) -> None:
    began = time.process_time()
    dataset = read_dataset(text(tmp_path / "list.txt", "a\n" * (1 << 19)))
    assert len(dataset) == 1 << 19
    assert [problem.kind for problem in check_dataset(dataset, 1, decode=False)] == ["list", "missing", "image"]
    assert time.process_time() - began < 3


def test_blanks_in_the_paths_of_a_data_file(tmp_path: Path) -> None:
    labelled(tmp_path, "obj", "obj", 0)
    text(tmp_path / "my list.txt", f"{tmp_path}/obj/0.jpg\n")
    data = text(tmp_path / "x.data", "valid = my list.txt\n")
    assert "blanks" in " ".join(map(str, read_dataset(data).problems))
    text(data, "valid = no list.txt\n")
    with pytest.raises(DataError, match="removes the blanks of 'no list"):
        read_dataset(data)


def coco(root: Path, **changes: object) -> Path:
    image(root / "images" / "a.jpg")
    document = {
        "categories": [{"id": 0, "name": "red", "supercategory": "none"}, {"id": 1, "name": "green"}],
        "images": [{"id": 5, "file_name": "a.jpg", "width": 20, "height": 10}],
        "annotations": [{"id": 0, "image_id": 5, "category_id": 1, "bbox": [2, 1, 10, 5]}],
    }
    return text(root / "all.json", json.dumps({**document, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"images": [{"id": "005", "file_name": "images\\a.jpg", "width": 20, "height": 10}]},
        {"images": [{"id": 5, "file_name": "a.jpg"}]},
        {"annotations": [{"id": 0, "image_id": "5", "category_id": "1", "bbox": [2, 1, 10, 5]}]},
    ],
)
def test_coco_as_other_tools_write_it(tmp_path: Path, changes: dict[str, object]) -> None:
    coco(tmp_path, **changes)
    (record,) = read_dataset(tmp_path).images
    assert record.path.exists()
    assert classes_of(tmp_path) == ["green"]
    assert np.allclose(record.objects().boxes, [[0.35, 0.35, 0.5, 0.5]])


def test_a_category_above_the_others_is_no_class(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "things"}, {"id": 1, "name": "green", "supercategory": "things"}]
    coco(tmp_path, categories=categories)
    assert read_dataset(tmp_path).class_names == ("green",)
    assert classes_of(tmp_path) == ["green"]


def test_names_longer_than_any_file_s(tmp_path: Path) -> None:
    long = "x" * 5000
    with pytest.raises(DataError, match="points nowhere"):
        read_dataset(text(tmp_path / "data.yaml", f"val: {long}\n"))
    found = read_dataset(text(tmp_path / "list.txt", f"{long}.png\n"))
    assert "no such image" in [problem.message for problem in check_dataset(found, 1, decode=False)]


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    text(tmp_path / "notes.md", "")
    with pytest.raises(DataError, match=r"it holds notes\.md"):
        read_dataset(tmp_path)
    coco(tmp_path)
    labelled(tmp_path, "images", "labels", 0)
    dataset = read_dataset(tmp_path)
    assert (dataset.form, dataset.also) == ("COCO", ("images with darknet's label files",))


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize("folder", sorted(path.name for path in CASES.glob("form-*")) if CASES.is_dir() else [])
def test_forms_of_public_reports(folder: str) -> None:
    dataset = read_dataset(CASES / folder, "train")
    assert dataset.class_names == (("blue", "green", "red") if "voc" in folder else ("red", "green", "blue"))
    assert check_dataset(dataset, 3) == []
    assert {int(number) for record in dataset.images for number in record.objects().classes} >= {0, 1}
