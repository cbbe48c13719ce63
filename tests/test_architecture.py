"""Holds the project's structure: imports go one way, surgery stays light, names say what they are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "darkprune"

#: a package may import those of its own line or of earlier ones
LEVELS = [
    {"errors", "json_types"},
    {"processes", "progress", "settings", "targets"},
    {"darknet", "zoo"},
    {"runs"},
    {"layers"},
    {"graph"},
    {"surgery"},
    {"selection"},
    {"data", "evaluation"},
    {"network"},
    {"tensorrt", "onnx", "kit"},
    {"runners"},
    {"refit"},
    {"scores"},
    {"lowrank"},
    {"search"},
    {"training"},
    {"comparison", "sweep", "pages"},
    {"api", "compression"},  # a run calls the functions, and is one of them
    {"cli", "__main__", "__init__"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
HEAVY = ("torch", "cv2", "onnx", "onnxruntime", "tensorrt", "matplotlib")


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def _sources() -> list[Path]:
    # the scripts of the kit run on the board by themselves
    return [path for path in PACKAGE.rglob("*.py") if "kit/board" not in path.as_posix()]


def _room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else path.stem


@pytest.mark.parametrize("path", _sources(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    room = _room(path)
    for name in _imports(path):
        if name.startswith("darkprune."):
            other = name.split(".")[1]
            assert LEVEL[other] <= LEVEL[room], f"{path.name} imports {name}"


def test_the_architecture_is_described_as_it_is() -> None:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(r"^```\n(errors .*?)^```$", text, re.M | re.S)
    assert block is not None
    shown = [set(line.split()) for line in block[1].splitlines()]
    assert shown == [names - {"__main__", "__init__"} for names in LEVELS]
    for path in PACKAGE.iterdir():
        if path.is_dir() and path.name[0] not in "._":
            assert f"`{path.name}/`" in text, path.name


def test_torch_stays_where_it_may() -> None:
    may = {"network", "training", "refit", "scores", "lowrank", "search"}
    for path in _sources():
        if _room(path) not in may and path.name != "torch_runner.py":
            top = ast.parse(path.read_text(encoding="utf-8")).body
            direct = {n.names[0].name for n in top if isinstance(n, ast.Import)}
            direct |= {n.module or "" for n in top if isinstance(n, ast.ImportFrom)}
            assert not any(name.split(".")[0] == "torch" for name in direct), path


@pytest.mark.parametrize("command", ["info", "groups", "prune", "verify", "init"])
def test_surgery_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from darkprune.cli.main import build_parser; "
        f"build_parser({command!r}); print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_command_line_bounds_threads_before_numpy_starts_them() -> None:
    """numpy's BLAS starts a thread per core when it is imported, unless the environment says otherwise by then."""
    code = "import sys; import darkprune.cli.main; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_no_room_is_called_utils() -> None:
    for path in PACKAGE.rglob("*"):
        assert not re.fullmatch(r"(utils?|helpers?|misc|common)(\.py)?", path.name), path


def test_format_tags_have_one_style() -> None:
    for path in _sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").endswith("FORMAT"):
                assert re.fullmatch(r"darkprune-[a-z]+/[1-9]\d*", ast.literal_eval(node.value)), path
