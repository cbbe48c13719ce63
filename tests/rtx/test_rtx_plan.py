"""What TensorRT for RTX plans, read from its log and shown by `export` and `kit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import darkprune as dp
from darkprune.api.conversion import export as conversion
from darkprune.cli.main import main
from darkprune.darknet.cfg import parse_cfg
from darkprune.errors import ExportError
from darkprune.graph.graph import build_graph
from darkprune.tensorrt import plan as planning
from darkprune.tensorrt import plans as side_by_side
from darkprune.tensorrt.plan import EnginePlan, Kernel, PlannedTensor, plan_file, read_kernels
from darkprune.tensorrt.plans import Plans, rounded_up, with_widths
from tests.rtx.networks import FAMILY, conv, head, needs_rtx, section

TENSOR = (
    "{{ Name: {}, Dimensions: [{}], Strides: [4,1], StrideOrder: [1,0], Datatype: {}, Format: (NHWC) Channel major }}"
)
LINE = "Name: {}, LayerType: {}, Inputs: [ {}], Constants: [], Outputs: [ {}], TacticName: , StreamId: 0, Metadata: "


def line(name: str, kind: str, before: str, after: str, sizes: str = "2,4,8,8") -> str:
    return LINE.format(name, kind, TENSOR.format("a", sizes, before), TENSOR.format("b", sizes, after))


def test_kernels_of_a_log() -> None:
    lines = [
        "Layers:",
        line("__myl_CorrMulMax_myl0_1", "runtime_fusion", "Half", "Half"),
        line("__myl_SlicConc_myl0_2", "kgen", "Half", "Half"),
        line("012_convolutional/conv_myl0_3", "correlation", "Int8", "Float"),
        line("__myl_MulMinMaxRounCast_myl0_4", "kgen", "Float", "Int8"),
        line("__mye1821_myl0_30", "signal", "Half", "Half"),
        "I/O Tensors:",
    ]
    kernels = read_kernels(lines)
    assert [kernel.steps for kernel in kernels] == [
        ("Corr", "Mul", "Max"), ("Slic", "Conc"), (), ("Mul", "Min", "Max", "Roun", "Cast")
    ]  # fmt: skip
    assert [kernel.is_convolution for kernel in kernels] == [True, False, True, False]
    assert [kernel.is_copy for kernel in kernels] == [False, True, False, False]
    assert [kernel.is_quantisation for kernel in kernels] == [False, False, False, True]
    plan = EnginePlan("1.7", "int8", images=2, kernels=kernels)
    assert plan.copies == 1
    assert plan.bytes_written == 4 * 8 * 8 * (2 + 2 + 4 + 1)
    assert plan.to_json() == {
        "tensorrt_rtx": "1.7", "precision": "int8", "kernels": 4, "copies": 1, "bytes_written_per_image": 2304
    }  # fmt: skip


def test_lines_of_another_form_are_passed_over() -> None:
    assert read_kernels(["Name: x, but of another form"]) == ()


def some_plan(count: int, size: int, precision: str = "fp16", copies: int = 0) -> EnginePlan:
    kernel = Kernel("k", "kgen", (), (), (PlannedTensor("b", (1, size), "Half"),))
    copy = replace(kernel, name="__myl_SlicConc_myl0_1")
    return EnginePlan("1.7", precision, kernels=(kernel,) * (count - copies) + (copy,) * copies)


@pytest.mark.parametrize(
    ("network", "others", "words"),
    [
        (some_plan(48, 500), {"rounded": some_plan(37, 500)}, ["widths that are no multiples of 8 are padded: 48"]),
        (some_plan(37, 500), {"rounded": some_plan(37, 500)}, []),
        (some_plan(37, 500), {"rounded": some_plan(36, 900)}, []),
        (
            some_plan(26, 500, copies=6),
            {"rounded": some_plan(23, 700, copies=1)},
            ["widths that are no multiples of 8 are padded: 26 kernels (6 copies) write"],
        ),
        (some_plan(46, 900, "int8"), {"fp16": some_plan(38, 500)}, ["in INT8 46 kernels write"]),
        (some_plan(46, 400, "int8"), {"fp16": some_plan(38, 500)}, []),
    ],
)
def test_warnings(network: EnginePlan, others: dict[str, EnginePlan], words: list[str]) -> None:
    warnings = Plans(network, others).warnings
    assert len(warnings) == len(words)
    assert all(warning.startswith(start) for warning, start in zip(warnings, words, strict=True))


def test_other_widths() -> None:
    graph = build_graph(parse_cfg(FAMILY, "family.cfg"))
    wider = with_widths(graph, lambda width: 2 * width)
    assert wider is not None
    assert [layer.output.c for layer in wider][:4] == [16, 32, 32, 32]
    assert [head.output.c for head in wider.heads] == [head.output.c for head in graph.heads]
    assert wider[6].is_depthwise
    rounded = rounded_up(graph, 8)
    assert rounded is not None
    assert [layer.output.c for layer in rounded if layer.name == "convolutional"] == [
        8, 16, 16, 16, 8, 16, 16, 24, 16, 24, 16
    ]  # fmt: skip
    assert rounded_up(rounded, 8) is rounded
    odd = section("net", width=8, height=8, channels=3) + conv(8) + conv(6, groups=2) + head()
    assert with_widths(build_graph(parse_cfg(odd, "x")), lambda width: 7 if width == 6 else width) is None


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "tensorrt_rtx", lambda: None)
    assert plan_file(tmp_path / "x.onnx").skipped == "TensorRT for RTX is not installed: pip install 'darkprune[rtx]'"


def test_a_check_that_was_asked_for_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "tensorrt_rtx", lambda: None)
    assert not dp.ExportSettings(target="orin").planned
    with pytest.raises(ExportError, match=r"--check tensorrt: .* not installed: pip install 'darkprune\[rtx\]'"):
        dp.ExportSettings(check="tensorrt")


@pytest.fixture
def pair(tmp_path: Path) -> dp.Pair:
    (tmp_path / "family.cfg").write_text(FAMILY, encoding="utf-8")
    (tmp_path / "family.names").write_text("a\nb\nc\n", encoding="utf-8")
    dp.init(dp.load(tmp_path / "family.cfg"), tmp_path / "family.weights", dp.InitSettings(vary=True))
    return dp.load(tmp_path / "family.cfg", tmp_path / "family.weights")


@needs_rtx
def test_export_shows_the_plan_beside_others(pair: dp.Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slim = tmp_path / "slim"
    dp.prune(pair, dp.PruneSettings(ratio=0.3, min_channels=1), output=slim)
    files = [str(slim / "family.cfg"), str(slim / "family.weights"), "--names", str(tmp_path / "family.names")]
    assert main(["export", *files, "--target", "rtx", "-o", str(tmp_path / "x.onnx")]) == 0
    out = capsys.readouterr().out
    assert "made on the processor, never run" in out
    for row in ("this network", "before pruning", "rounded up to 8"):
        assert f"\n{row} " in out
    surgery = dp.prune(pair, dp.PruneSettings(ratio=0.3, min_channels=1, target="rtx"))
    plans = dp.export(surgery, tmp_path / "y.onnx", dp.ExportSettings(target="rtx")).plans
    assert plans is not None
    assert set(plans.others) == {"original"}
    assert plans.warnings == ()


def test_padded_widths_are_said_without_a_plan(pair: dp.Pair, tmp_path: Path) -> None:
    surgery = {
        target: dp.prune(pair, dp.PruneSettings(ratio=0.3, min_channels=1, target=target)) for target in ("rtx", None)
    }

    def warnings(cut: str | None, **how: object) -> tuple[str, ...]:
        settings = dp.ExportSettings(static=True, overwrite=True, **how)  # type: ignore[arg-type]
        return dp.export(surgery[cut], tmp_path / "x.onnx", settings).warnings

    (warning,) = warnings(None, target="orin")
    assert warning.startswith("widths of 8 convolutions are no multiples of 8: TensorRT pads them")
    assert warnings("rtx", target="orin") == ()
    assert warnings(None, target="orin", fp32=True) == ()
    assert warnings(None, target="onnxruntime") == ()


@needs_rtx
def test_boards_are_planned_in_what_they_compute(
    pair: dp.Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(**how: object) -> EnginePlan:
        result = dp.export(pair, tmp_path / "x.onnx", dp.ExportSettings(target="orin", overwrite=True, **how))  # type: ignore[arg-type]
        assert result.file.facts["precision"] == "fp32"
        assert result.plans is not None
        return result.plans.network

    assert plan().precision == "fp16"
    assert plan(fp32=True).precision == "fp32"
    parsed: list[Path] = []
    monkeypatch.setattr(side_by_side, "parse_file", parsed.append)
    plan()
    assert [path.name for path in parsed] == ["x.onnx"]  # the file itself, which is FP32, has to be readable


@needs_rtx
def test_kits_are_planned_in_what_the_board_computes(pair: dp.Pair, tmp_path: Path) -> None:
    result = dp.write_kit(pair, tmp_path / "kit", dp.KitSettings(target="jetson-nano", deepstream=False))
    assert result.onnx.file.facts["precision"] == "fp32"
    assert result.onnx.plans is not None
    assert result.onnx.plans.network.precision == "fp16"
    assert result.to_json()["onnx"]["plans"]["network"]["kernels"] > 10


@needs_rtx
@pytest.mark.parametrize(
    ("settings", "planned"),
    [
        ({}, False),
        ({"check": "tensorrt"}, True),
        ({"target": "orin"}, True),
        ({"target": "orin", "static": True}, False),
        ({"target": "orin", "check": "none"}, False),
    ],
)
def test_when_a_file_is_planned(settings: dict[str, object], planned: bool) -> None:
    assert dp.ExportSettings(**settings).planned == planned  # type: ignore[arg-type]
