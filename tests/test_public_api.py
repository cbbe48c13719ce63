"""The public surface: its names, its settings, and the examples of docs/API.md."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import darkprune as dp
from darkprune.settings import declared

ROOT = Path(__file__).parents[1]
API = (ROOT / "docs" / "API.md").read_text(encoding="utf-8")


def _words(text: str) -> list[str]:
    return text.split()


FUNCTIONS = _words("""
    bench build_engine cliff compare compress detect distill evaluate export factorize init load prune report train
    verify write_kit
""")
SETTINGS = _words("""
    BenchSettings CliffSettings CompareSettings CompressSettings DetectSettings DistillSettings EngineSettings
    EvaluateSettings ExportSettings FactorizeSettings InitSettings KitSettings PruneSettings ReportSettings
    TrainSettings VerifySettings
""")
RESULTS = _words("""
    BenchResult CliffResult CompareResult CompressResult DetectResult EngineResult EvaluateResult ExportResult
    InitResult KitResult PruneResult ReportResult TrainResult VerifyResult
""")
OTHERS = _words("""
    DarkpruneError FoundObject ImageObjects NetworkFigures Pair Plan Progress ProgressEvent Surgery
""")

_BLOCK = re.compile(r"^(?P<mark><!-- needs (?P<needs>.*?) -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S)
_TITLE = re.compile(r"^#+ (.*)$", re.M)


def _examples() -> Iterator[tuple[str, str, str]]:
    """Yields title, what it needs and code of every example."""
    for block in _BLOCK.finditer(API):
        yield _TITLE.findall(API[: block.start()])[-1].strip("`"), block["needs"] or "", block["code"]


EXAMPLES = list(_examples())
#: what the page shows before its sections: every example may use it
PREAMBLE = "".join(code for title, _, code in EXAMPLES if title == "Python API")
TRAINING = ("train", "distill", "factorize", "compress", "compare", "report")  #: examples that run PyTorch for long
NETWORK = next(code for title, _, code in EXAMPLES if title == "load")


def test_the_surface_is_what_is_meant_to_be_public() -> None:
    """A name is added here on purpose, or it is not public."""
    assert dp.__all__ == sorted(FUNCTIONS + SETTINGS + RESULTS + OTHERS)
    assert set(dir(dp)) == set(dp.__all__)


def test_every_public_name_can_be_used() -> None:
    for name in dp.__all__:
        assert getattr(dp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dp.nothing


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "darkprune" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # what makes it an export
    }
    assert seen == dp._HOME


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys, darkprune; print([n for n in ('numpy', 'torch', 'cv2', 'onnx', 'tqdm') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_frozen_named_and_explained(name: str) -> None:
    kind = getattr(dp, name)
    assert kind.__dataclass_params__.frozen
    fields = dataclasses.fields(kind)
    flags = declared(kind)
    for field in fields:
        assert field.kw_only, field.name
        if field.name in flags:
            assert flags[field.name].setting.help.strip(), field.name
        else:  # for the library alone: explained in the docstring
            assert f"{field.name}:" in inspect.getdoc(kind), field.name  # type: ignore[operator]


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_frozen_and_become_json(name: str) -> None:
    kind = getattr(dp, name)
    assert kind.__dataclass_params__.frozen
    assert typing.get_type_hints(kind.to_json)["return"] is not None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_typed_and_explained(name: str) -> None:
    function: FunctionType = getattr(dp, name)
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    assert set(parameters) | {"return"} == set(hints)
    assert len(parameters) <= 7
    described = inspect.getdoc(function) or ""
    for parameter in parameters.values():
        assert f"{parameter.name}:" in described, parameter.name
    if "progress" in parameters:
        assert parameters["progress"].kind is inspect.Parameter.KEYWORD_ONLY
        assert hints["progress"] == dp.Progress | None
    if name not in ("load", "init"):  # which are done at once
        assert "progress" in parameters


def test_every_public_name_is_documented() -> None:
    titles = {title.strip("`") for title in _TITLE.findall(API)}
    for name in FUNCTIONS:
        assert name in titles
        assert any(f"dp.{name}(" in code for title, _, code in EXAMPLES if title == name)
    for name in [*SETTINGS, *RESULTS, *OTHERS]:
        assert re.search(rf"`(dp\.)?{name}`", API), name


@pytest.mark.parametrize(
    ("title", "needs", "code"),
    [
        pytest.param(*example, id=f"{number}-{example[0]}", marks=[pytest.mark.slow] if example[0] in TRAINING else [])
        for number, example in enumerate(EXAMPLES)
    ],
)
def test_examples_run(title: str, needs: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if needs:
        pytest.skip(f"needs {needs}; its types are checked")
    if ".torch()" in code or title in TRAINING:
        pytest.importorskip("torch", reason="pip install '.[train]'")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for part in dict.fromkeys((PREAMBLE, NETWORK, code if title != "Python API" else "")):
        exec(compile(part, "docs/API.md", "exec"), names)


@pytest.mark.slow
def test_examples_have_the_types_that_they_use(tmp_path: Path) -> None:
    """All of them in one program, strictly checked."""
    pytest.importorskip("numpy", minversion="2", reason="the types of numpy 1 are others: pip install 'numpy>=2'")
    program = tmp_path / "examples.py"
    program.write_text("".join(code for _, _, code in EXAMPLES), encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout
