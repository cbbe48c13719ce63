"""What is declared of the package, and what its distributions hold."""

from __future__ import annotations

import ast
import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import darkprune
from darkprune.cli.main import EXTRAS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
#: what an import is called -> the distribution that brings it
DISTRIBUTION = {"cv2": "opencv-python-headless", "faster_coco_eval": "faster-coco-eval"}
#: installed by other means
NOT_DECLARED = {"tensorrt", "typing_extensions", "_typeshed"}  # comes with torch; for type checkers only


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    """Lists files below a folder, without what Python and its tools leave there."""
    found = [path.relative_to(ROOT) for path in folder.rglob(pattern) if path.is_file()]
    return [path for path in found if not any(part == "__pycache__" or part[0] == "." for part in path.parts)]


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!;, ]", entry)[0] for entry in requirements}


def test_the_darknet_reader_is_a_core_requirement() -> None:
    (found,) = (entry for entry in _project()["dependencies"] if entry.startswith("opencv-python"))
    assert found.startswith("opencv-python-headless")
    assert re.search(r"<5(,|$)", found)  # OpenCV 5 has no readNetFromDarknet


def test_the_version_is_written_in_one_place() -> None:
    project = _project()
    assert "version" in project["dynamic"]
    assert "version" not in project
    literal = re.compile(rf"""version["']?\s*[=:]\s*["']{re.escape(darkprune.__version__)}["']""")
    for path in [ROOT / "setup.py", *(ROOT / "darkprune").rglob("*.py")]:
        if path != ROOT / "darkprune" / "__init__.py":
            assert not literal.search(path.read_text(encoding="utf-8")), path


def test_every_import_is_declared() -> None:
    project = _project()
    extras = project["optional-dependencies"]
    known = _names(project["dependencies"]).union(*(_names(extras[name]) for name in ("train", "export", "report")))
    for path in (ROOT / "darkprune").rglob("*.py"):
        if "kit/board" in path.as_posix():
            continue  # runs on the board by itself
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules.append(node.module or "")
            for top in {module.split(".")[0] for module in modules}:
                if top not in sys.stdlib_module_names and top != "darkprune" and top not in NOT_DECLARED:
                    assert DISTRIBUTION.get(top, top) in known, f"{path}: {top} is no requirement"


def test_the_extra_that_an_error_names_brings_the_module() -> None:
    extras = _project()["optional-dependencies"]
    for module, extra in EXTRAS.items():
        assert module in _names(extras[extra])


def test_all_is_every_extra_for_use_that_is_free() -> None:
    """Without what tests and documents need, and without NVIDIA's proprietary wheels, which a user chooses."""
    extras = _project()["optional-dependencies"]
    (entry,) = extras["all"]
    assert set(re.fullmatch(r"darkprune\[(.*)\]", entry)[1].split(",")) == set(extras) - {"all", "docs", "rtx", "test"}  # type: ignore[index]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Builds sdist and wheel of a copy of the project, the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("distributions")
    left_out = (".git", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", ".venv", "build", "dist", "site")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*left_out))
    build = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    for hook, place in (("build_sdist", "source"), ("build_wheel", "unpacked")):
        done = subprocess.run(
            [sys.executable, "-c", build, hook, str(folder)], cwd=folder / place, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        if hook == "build_sdist":
            (sdist,) = folder.glob("*.tar.gz")
            with tarfile.open(sdist) as archive:
                archive.extractall(folder, filter="data")
            (folder / sdist.name.removesuffix(".tar.gz")).rename(folder / "unpacked")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_sdist_can_be_tested(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for path in [*_files(ROOT / "tests"), *_files(ROOT / "tools", "*.py"), *_files(ROOT / "docs")]:
        assert path.as_posix() in inside
    assert {"README.md", "constraints.txt", ".ci/run", "LICENSE", "cfg/yolov4.cfg"} <= inside


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as archive:
        inside = set(archive.namelist())
    for path in _files(ROOT / "darkprune"):
        assert path.as_posix() in inside or path.name == "ruff.toml"
    for folder in ("cfg", "weights"):
        for path in (ROOT / folder).glob(f"*.{folder}"):
            assert f"darkprune/zoo/{folder}/{path.name}" in inside
    assert not [name for name in inside if name.startswith(("tests", "tools", "docs"))]


@pytest.mark.slow
def test_the_description_has_no_dead_links(distributions: tuple[Path, Path]) -> None:
    """A package index shows the README alone."""
    with zipfile.ZipFile(distributions[1]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert "darkprune demo" in text.decode()
    links = re.findall(r"\]\(([^)]*)\)", text.decode())
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


@pytest.mark.slow
def test_a_source_tree_that_cannot_be_written_to_is_built(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(distributions[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    before = sorted(source.rglob("*"))
    # the tests may run as root, who can write anywhere
    build = "import os, sys; os.access = lambda *_: False; from setuptools import build_meta as b; b.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("*.whl"))) == 1
    assert sorted(source.rglob("*")) == before


@pytest.mark.slow
def test_the_wheel_alone_prunes_and_verifies(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """Installed without any extra: the independent reader is there, torch is not."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    binaries = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    installed = subprocess.run(
        [str(binaries / "python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), distributions[1]],
        capture_output=True,
        text=True,
    )
    if installed.returncode and re.search(r"connection|resolve|timed out|No matching", installed.stderr, re.I):
        pytest.skip("pip has no index to install from here: run this with network access")
    assert installed.returncode == 0, installed.stderr[-2000:]
    for command in (
        ["demo", "-o", "demo"],
        ["prune", "builtin:scenes", "builtin:scenes", "--ratio", "0.1", "-o", "slim"],
        ["verify", "builtin:scenes", "builtin:scenes", "slim/scenes.cfg", "slim/scenes.weights"],
    ):
        done = subprocess.run(
            [str(binaries / "darkprune"), *command], cwd=tmp_path, capture_output=True, text=True, env={"HOME": "/"}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if command[0] == "demo":
            assert "not distilled: PyTorch is not installed" in done.stderr
    assert "opencv" in done.stdout.lower()
    assert subprocess.run([str(binaries / "python"), "-c", "import torch"], capture_output=True).returncode != 0
