"""What two pairs show as files: the slim one as the plan makes it, and with one thing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darkprune.darknet.cfg import parse_cfg
from darkprune.graph.graph import build_graph
from darkprune.graph.weights import NetworkWeights
from darkprune.runs.digests import digest_of_file
from darkprune.surgery.static_check import output_layers, static_problems

from .cutting import make, opened, slim_of
from .networks import cfg, tensors_of

CONV = "convolutional size=3 pad=1 batch_normalize=1 activation=leaky filters={}"
HEAD = "convolutional size=1 filters=4 activation=linear"
TEXT = cfg(CONV.format(8), "maxpool size=2 stride=2", CONV.format(6), HEAD)
Change = Callable[[str, bytes], tuple[str, bytes]]


def problems(
    tmp_path: Path, change: Change = lambda text, data: (text, data), *, plan: bool = True, trained: bool = False,
    report: bool = False,
) -> list[str]:  # fmt: skip
    """Lists what is wrong with a slim pair after a change, with or without its plan."""
    with opened(TEXT, tensors_of(TEXT, {})) as original:
        surgery = make(original, ratio=0.5, min_channels=1)
        made = slim_of(original, surgery.cut)
        text, data = change(made.text, made.weights)
        path, weights, beside = tmp_path / "slim.cfg", tmp_path / "slim.weights", tmp_path / "report.json"
        path.write_text(text)
        weights.write_bytes(data)
        outputs = {"cfg": {"sha256": digest_of_file(path)}, "weights": {"sha256": "0" * 64}}
        beside.write_text(json.dumps({"outputs": outputs}))
        with NetworkWeights(build_graph(parse_cfg(text, str(path))), weights) as slim:
            cut = surgery.cut if plan else None
            return static_problems(original, slim, cut, beside if report else None, trained=trained)


def replaced(before: str, after: str) -> Change:
    return lambda text, data: (text.replace(before, after), data)


def last_float(value: float) -> Change:
    return lambda text, data: (text, data[:-4] + np.float32(value).tobytes())


def at(offset: int, value: int) -> Change:
    """Changes one byte of the header."""
    return lambda text, data: (text, data[:offset] + bytes([value]) + data[offset + 1 :])


@pytest.mark.parametrize("plan", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_nothing_is_wrong_with_what_was_written(tmp_path: Path, plan: bool, trained: bool) -> None:
    assert problems(tmp_path, plan=plan, trained=trained) == []


def test_another_text_than_the_plan_makes(tmp_path: Path) -> None:
    line = 1 + TEXT.splitlines().index("activation=leaky")
    (problem,) = problems(tmp_path, replaced("activation=leaky", "activation=mish"))
    assert problem == f"{tmp_path}/slim.cfg: differs at line {line} from what the plan makes of the original"
    lines = len(TEXT.splitlines())
    (problem,) = problems(tmp_path, lambda text, data: (text + "# end\n", data))
    assert f"differs at its length: {lines + 1} lines instead of {lines} from" in problem


@pytest.mark.parametrize(("offset", "wrong"), [(12, True), (4, True), (8, False)])  # seen, minor, revision
def test_header(tmp_path: Path, offset: int, wrong: bool) -> None:
    change = at(offset, 3)
    assert bool(problems(tmp_path, change)) is wrong
    assert problems(tmp_path, change, trained=True) == []


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    assert len(problems(tmp_path, last_float(np.nan), trained=True)) == 1
    assert problems(tmp_path, last_float(1e3)) == []


def test_training_may_change_keys_but_no_layer(tmp_path: Path) -> None:
    assert problems(tmp_path, replaced("[net]", "[net]\nlearning_rate=1"), trained=True) == []
    (problem,) = problems(tmp_path, replaced("activation=linear", "activation=mish"), trained=True)
    assert problem == "layer 3 (convolutional): is not what the plan makes of the original"
    (problem,) = problems(tmp_path, lambda text, data: (text + "[dropout]\n", data), trained=True)
    assert problem == "the layers differ: 5 instead of 4"


def test_without_a_plan_only_widths_may_differ(tmp_path: Path) -> None:
    change = replaced("activation=linear", "activation=mish")
    line = len(TEXT.splitlines()) - TEXT.splitlines()[::-1].index("[convolutional]")  # of the section
    assert problems(tmp_path, change, plan=False) == [f"line {line}: [convolutional] activation is mish, was linear"]
    (_, problem) = problems(tmp_path, replaced("[maxpool]", "[local_avgpool]"), plan=False)
    assert problem.endswith(": [local_avgpool] instead of [maxpool]")


def test_shapes(tmp_path: Path) -> None:
    (problem, _) = problems(tmp_path, replaced("size=2\nstride=2", "size=2\nstride=1"), plan=False)[:2]
    assert problem == "layer 1 (maxpool) gives 4x8x8 instead of 8x4x4"
    (problem, *_) = problems(tmp_path, lambda text, data: (text + "[dropout]\n", data), plan=False)
    assert problem.startswith("the layers differ: 4 before, 5 after")


def test_a_width_that_is_the_networks_answer(tmp_path: Path) -> None:
    def narrower(text: str, data: bytes) -> tuple[str, bytes]:
        return text.replace("filters=4\nactivation=linear", "filters=3\nactivation=linear"), data[: -4 * (3 + 1)]

    (problem,) = problems(tmp_path, narrower, plan=False)
    assert problem == "layer 3 (convolutional) gives 3x4x4 instead of 4x4x4"


def test_a_report_of_other_files(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, report=True)
    assert problem.startswith(f"{tmp_path}/slim.weights: is not the file that the report beside it describes")


@pytest.mark.parametrize(
    ("sections", "layers"),
    [
        ([CONV.format(8), HEAD], (1,)),
        ([CONV.format(8), CONV.format(8), "route layers=0"], (1, 2)),
        ([CONV.format(8), "avgpool", "softmax"], (1,)),
        ([CONV.format(8), "convolutional size=1 filters=6 activation=linear", "yolo classes=1", CONV.format(2)], (1,)),
        (["convolutional size=1 filters=6 activation=linear", "yolo classes=1"], (0,)),
    ],
)
def test_layers_whose_maps_are_the_answer(sections: list[str], layers: tuple[int, ...]) -> None:
    assert output_layers(build_graph(parse_cfg(cfg(*sections)))) == layers
