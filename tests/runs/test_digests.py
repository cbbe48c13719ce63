"""What identifies files, images, labels and settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from darkprune.data import read_dataset
from darkprune.data.dataset import digest_of_labels
from darkprune.runs.digests import digest_of_file, digest_of_images, plain
from darkprune.runs.record import Input, Origin, path_text


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two images with labels beside them, and a list of them."""
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(10 + number))
        path.with_suffix(".txt").write_text(f"{number} 0.5 0.5 0.2 0.2\n")
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    return paths


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert digest_of_file(tmp_path / "abc").startswith("ba7816bf8f01cfea")
    (tmp_path / "abc").write_bytes(b"abd")  # at once, of the same size
    assert not digest_of_file(tmp_path / "abc").startswith("ba7816bf8f01cfea")


def test_an_old_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"abc")
    monkeypatch.setattr("darkprune.runs.digests.time.time_ns", lambda: os.stat(path).st_ctime_ns + 10**10)
    first = digest_of_file(path)
    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *args, **options: pytest.fail("read again"))
        assert digest_of_file(path) == first
    assert Path.open is opened
    os.replace(_with(tmp_path / "new", b"xyz", like=path), path)
    assert digest_of_file(path) != first


def _with(path: Path, content: bytes, like: Path) -> Path:
    """Writes a file of the same size and time as another."""
    path.write_bytes(content)
    found = os.stat(like)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    return path


def test_images_are_known_by_path_and_size_or_by_content(images: list[Path], tmp_path: Path) -> None:
    both = [digest_of_images(images, content) for content in (False, True)]
    images[0].write_bytes(bytes(9) + b"\1")  # other content, same size
    assert digest_of_images(images) == both[0]
    assert digest_of_images(images, content=True) != both[1]
    images[0].write_bytes(bytes(10))
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in images]
    assert digest_of_images(moved) != both[0]
    assert digest_of_images(moved, content=True) == both[1]
    assert digest_of_images(reversed(moved), content=True) != both[1]
    moved[0].unlink()
    assert digest_of_images(moved, content=True) != both[1]


def test_the_current_folder_does_not_matter(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert digest_of_images([Path(path.name) for path in images]) == digest_of_images(images)


@pytest.mark.parametrize("content", [False, True])
def test_labels_are_known_by_content(images: list[Path], tmp_path: Path, content: bool) -> None:
    def digest() -> str:
        return digest_of_labels(read_dataset(tmp_path / "list.txt"), content=content)

    seen = {digest()}
    label = images[1].with_suffix(".txt")
    label.write_text("1 0.5 0.5 0.2 0.3\n")
    seen.add(digest())
    label.unlink()
    seen.add(digest())
    images[0].write_bytes(bytes(20))
    seen.add(digest())
    assert len(seen) == 4


def test_names_of_classes_count(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "x.names").write_text("cat\ndog\n")
    plain_set = read_dataset(tmp_path / "list.txt")
    named = read_dataset(tmp_path / "list.txt", names=tmp_path / "x.names")
    assert digest_of_labels(plain_set) != digest_of_labels(named)
    assert digest_of_labels(plain_set) != digest_of_labels(plain_set, plain_set)


@dataclass(frozen=True)
class _Settings:
    ratio: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    path: Path = Path("x")


def test_settings_are_plain_values() -> None:
    assert plain(_Settings()) == {"ratio": 0.5, "sizes": [1, 2], "path": "x"}
    assert plain({"inner": _Settings(), "set": {2, 1}})["set"] == [1, 2]
    with pytest.raises(TypeError):
        plain([1])


def test_a_key_follows_from_what_decides_the_result(tmp_path: Path) -> None:
    first = Origin("cut", {"ratio": 0.5}, {"cfg": Input("a.cfg", "00")})
    assert first.key == Origin("cut", {"ratio": 0.5}, {"cfg": Input("elsewhere.cfg", "00")}).key
    others = [
        Origin("recover", {"ratio": 0.5}, {"cfg": Input("a.cfg", "00")}),
        Origin("cut", {"ratio": 0.4}, {"cfg": Input("a.cfg", "00")}),
        Origin("cut", {"ratio": 0.5}, {"cfg": Input("a.cfg", "01")}),
        Origin("cut", {"ratio": 0.5}, {"weights": Input("a.cfg", "00")}),
        Origin("cut", {"ratio": 0.5}, {"cfg": Input("a.cfg", "00")}, program="9.9"),
    ]
    assert len({first.key, *(other.key for other in others)}) == 6


def test_inputs_are_named_relative_to_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    for path in (tmp_path / "x.cfg", tmp_path / "run" / "y.cfg"):
        path.write_text("[net]\n")
    monkeypatch.chdir(tmp_path)
    assert path_text(Path("x.cfg"), Path("run")) == str(tmp_path / "x.cfg")
    assert path_text(Path("run/y.cfg"), Path("run")) == "y.cfg"
