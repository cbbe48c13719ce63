"""The dialects against a fake of each generation: which calls, in which order, with which flags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import GENERATIONS, Machine

from darkprune.kit.board.runtime import RuntimeFailure
from darkprune.kit.board.runtime.build import BuildOptions, BuildResult, build
from darkprune.kit.board.runtime.callbacks import Watcher
from darkprune.kit.board.runtime.compare import compare, deviation
from darkprune.kit.board.runtime.cuda import Cuda
from darkprune.kit.board.runtime.dialects import Dialect11, Dialect82, Dialect84, Dialect85, choose
from darkprune.kit.board.runtime.files import sha256_of, write_atomic
from darkprune.kit.board.runtime.session import NamedSession
from tests.engines.models import SIZE

MiB = 1 << 20
Make = Callable[..., Path]

# the whole of an FP16 build with an open batch, a timing cache and no TF32
COMMON_HEAD = ["init_libnvinfer_plugins('')", "Builder()"]
COMMON_TAIL = ["ITimingCache.serialize()", "Runtime()", "Runtime.deserialize_cuda_engine()"]
INSPECT = ["ICudaEngine.create_engine_inspector()"]
PROFILE = [
    "Builder.create_optimization_profile()",
    "IOptimizationProfile.set_shape(input, (1, 3, 64, 64), (2, 3, 64, 64), (4, 3, 64, 64))",
    "IBuilderConfig.add_optimization_profile()",
]
TIMINGS = ["IBuilderConfig.create_timing_cache(0 bytes)", "IBuilderConfig.set_timing_cache(ignore_mismatch=False)"]


def calls(network: str, workspace: str, precision: list[str], monitor: bool) -> list[str]:
    return [
        *COMMON_HEAD,
        f"Builder.create_network({network})",
        "OnnxParser()",
        "OnnxParser.parse_from_file()",
        "Builder.create_builder_config()",
        workspace,
        "IBuilderConfig.profiling_verbosity = DETAILED",
        "IBuilderConfig.clear_flag(TF32)",
        *PROFILE,
        *precision,
        *TIMINGS,
        *(["IBuilderConfig.progress_monitor = Monitor"] if monitor else []),
        "Builder.build_serialized_network()",
        *COMMON_TAIL,
        *INSPECT,
    ]


SIZE_BYTES = f"IBuilderConfig.max_workspace_size = {256 * MiB}"
POOL = f"IBuilderConfig.set_memory_pool_limit(WORKSPACE, {256 * MiB})"
FP16 = ["IBuilderConfig.set_flag(FP16)"]
EXPECTED = {
    "8.2": calls("EXPLICIT_BATCH", SIZE_BYTES, FP16, monitor=False),
    "8.4": calls("EXPLICIT_BATCH", POOL, FP16, monitor=False),
    "8.5": calls("EXPLICIT_BATCH", POOL, FP16, monitor=False),
    "8.6": calls("EXPLICIT_BATCH", POOL, FP16, monitor=False),
    "10.3": calls("EXPLICIT_BATCH", POOL, FP16, monitor=True),
    "10.13": calls("EXPLICIT_BATCH", POOL, FP16, monitor=True),
    "11": calls("STRONGLY_TYPED", POOL, [], monitor=True),
}


def run(machine: Machine, path: Path, **options: object) -> BuildResult:
    images = options.pop("images", None)
    lines: list[str] = options.pop("lines", [])  # type: ignore[assignment]
    return build(machine.trt, Cuda(), str(path), BuildOptions(**options), images, lines.append)  # type: ignore[arg-type]


def pictures(count: int) -> list[np.ndarray]:
    return [np.full((3, SIZE, SIZE), index, np.float32) for index in range(count)]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_calls_of_a_whole_build(generation: str, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
    half = generation == "11"  # there the file decides
    trt = machine.install(generation)
    result = run(
        machine,
        onnx_file(batch="n", half=half),
        precision="fp16",
        file_precision="fp16" if half else "fp32",
        workspace_mb=256,
        batch=(1, 2, 4),
        tf32=False,
        timing_cache=str(tmp_path / "timing.cache"),
    )
    assert trt._calls == EXPECTED[generation]
    assert [layer["type"] for layer in result.layers].count("Conv") == 3
    assert result.remarks == []
    assert (tmp_path / "timing.cache").read_bytes() == trt.__version__.encode()
    assert machine.cudart.leaks() == 0


@pytest.mark.parametrize(
    ("generation", "kind"),
    list(zip(GENERATIONS, [Dialect82, Dialect84, *[Dialect85] * 4, Dialect11], strict=True)),
)
def test_dialects_are_chosen_by_what_is_there(generation: str, kind: type, machine: Machine) -> None:
    trt = machine.install(generation)
    trt.__version__ = "7.0.0"  # must not matter
    assert type(choose(trt)) is kind


@pytest.mark.parametrize("generation", [g for g in GENERATIONS if g != "11"])
class TestWeaklyTyped:
    def test_plain_fp32_sets_no_flag(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        trt = machine.install(generation)
        run(machine, onnx_file())
        assert not [call for call in trt._calls if "flag" in call]

    def test_int8_from_pictures(self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        trt = machine.install(generation)
        cache = tmp_path / "calibration.cache"
        run(machine, onnx_file(batch=2), precision="int8", calibration_cache=str(cache), images=pictures(5))
        assert "calibration with 3 batches of 2" in trt._calls
        assert [call for call in trt._calls if "flag" in call or "calibrator" in call] == [
            "IBuilderConfig.set_flag(FP16)",
            "IBuilderConfig.set_flag(INT8)",
            "IBuilderConfig.int8_calibrator = Calibrator",
        ]
        # pictures 0 to 4, the last one twice
        assert cache.read_text() == f"TRT-{(0 + 1 + 2 + 3 + 4 + 4) * 3 * SIZE * SIZE:.3f}\n"

    def test_int8_from_a_cache(self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path) -> None:
        trt = machine.install(generation)
        cache = tmp_path / "calibration.cache"
        cache.write_bytes(b"ranges")
        run(machine, onnx_file(), precision="int8", calibration_cache=str(cache))
        assert "calibration from a cache of 6 bytes" in trt._calls
        assert cache.read_bytes() == b"ranges"
        link = tmp_path / "linked.cache"
        link.symlink_to(cache)
        run(machine, onnx_file(), precision="int8", calibration_cache=str(link))  # read, not replaced
        with pytest.raises(RuntimeFailure, match="never replaced"):
            run(machine, onnx_file(), precision="int8", calibration_cache=str(link), images=pictures(1))
        assert cache.read_bytes() == b"ranges"

    def test_a_cache_of_another_version_gets_this_ones_header(
        self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path
    ) -> None:
        trt = machine.install(generation)
        cache = tmp_path / "calibration.cache"
        cache.write_bytes(b"TRT-7000-EntropyCalibration2\ninput: 3c010a14\n")
        run(machine, onnx_file(), precision="int8", calibration_cache=str(cache))
        major, minor, patch = (int(part) for part in trt.__version__.split(".")[:3])
        number = f"{major}{minor:02}{patch:02}" if major >= 10 else f"{major}{minor}{patch:02}"
        assert trt._calibration == f"TRT-{number}-EntropyCalibration2\ninput: 3c010a14\n".encode()
        assert cache.read_bytes().startswith(b"TRT-7000-")  # what a user gave stays as it is

    def test_int8_with_an_open_batch(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        trt = machine.install(generation)
        run(machine, onnx_file(batch="n"), precision="int8", batch=(1, 3, 4), images=pictures(3))
        assert "calibration with 1 batches of 3" in trt._calls
        assert "IBuilderConfig.set_calibration_profile()" in trt._calls

    def test_int8_with_qdq_nodes_needs_no_calibrator(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        trt = machine.install(generation)
        run(machine, onnx_file(quantised=True), precision="int8", file_precision="int8", images=pictures(1))
        assert "IBuilderConfig.set_flag(INT8)" in trt._calls
        assert not [call for call in trt._calls if "calib" in call]

    def test_half_tensors_get_their_flag(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        trt = machine.install(generation)
        run(machine, onnx_file(half=True), file_precision="fp16")
        assert "IBuilderConfig.set_flag(FP16)" in trt._calls

    def test_int8_without_anything_to_calibrate_with(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        machine.install(generation)
        with pytest.raises(RuntimeFailure, match="no calibration cache and no image folder"):
            run(machine, onnx_file(), precision="int8")

    def test_int8_on_a_nano(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        machine.install(generation, fast_int8=False)
        with pytest.raises(RuntimeFailure, match="INT8: this GPU does not compute in it"):
            run(machine, onnx_file(), precision="int8", images=pictures(1))

    def test_fp16_where_it_is_slow(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        machine.install(generation, fast_fp16=False)
        assert run(machine, onnx_file(), precision="fp16").remarks == [
            "this GPU has no fast FP16: expect no gain over FP32"
        ]

    def test_a_calibration_picture_that_fails(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        def broken() -> object:
            yield from pictures(1)
            raise ValueError("second.jpg: cannot be read")

        machine.install(generation)
        with pytest.raises(RuntimeFailure, match=r"calibration: second\.jpg"):
            run(machine, onnx_file(), precision="int8", images=broken())


@pytest.mark.parametrize(
    ("wanted", "written", "reason"),
    [
        ("fp16", "fp32", "FP16: .* takes the precision from the ONNX file, which is FP32: export it with --fp16"),
        ("int8", "fp32", "INT8: this TensorRT takes the precision"),
        ("int8", "fp16", "which is FP16"),
    ],
)
def test_tensorrt_11_takes_the_precision_from_the_file(
    wanted: str, written: str, reason: str, machine: Machine, onnx_file: Make
) -> None:
    machine.install("11")
    with pytest.raises(RuntimeFailure, match=reason):
        run(machine, onnx_file(half=written == "fp16"), precision=wanted, file_precision=written, images=pictures(1))


def test_tensorrt_11_with_a_quantised_file(machine: Machine, onnx_file: Make) -> None:
    trt = machine.install("11")
    path = onnx_file(quantised=True)
    assert run(machine, path, precision="int8", file_precision="int8").remarks == []
    assert run(machine, path, file_precision="int8").remarks == ["the ONNX file is INT8, so the engine is"]
    assert not [call for call in trt._calls if "flag" in call or "calib" in call]


@pytest.mark.parametrize("generation", GENERATIONS)
class TestRefusals:
    def test_no_such_file(self, generation: str, machine: Machine, tmp_path: Path) -> None:
        machine.install(generation)
        with pytest.raises(RuntimeFailure, match=r"none\.onnx: no such file"):
            run(machine, tmp_path / "none.onnx")

    def test_not_onnx(self, generation: str, machine: Machine, tmp_path: Path) -> None:
        machine.install(generation)
        (tmp_path / "x.onnx").write_bytes(b"nonsense")
        with pytest.raises(RuntimeFailure, match=r"x\.onnx: the ONNX parser refuses it: Failed to parse"):
            run(machine, tmp_path / "x.onnx")

    def test_open_batch_without_sizes(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        machine.install(generation)
        with pytest.raises(RuntimeFailure, match="batch size is open, give --batch"):
            run(machine, onnx_file(batch="n"))

    def test_sizes_without_open_batch(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        machine.install(generation)
        with pytest.raises(RuntimeFailure, match="batch 1/2/4: the ONNX file has a fixed batch of 1"):
            run(machine, onnx_file(), batch=(1, 2, 4))

    def test_the_builders_own_words(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        trt = machine.install(generation)
        trt._refuse_build = "10: Could not find any\n implementation for node conv_0."
        with pytest.raises(RuntimeFailure, match="could not build it: 10: Could not find any implementation for node"):
            run(machine, onnx_file())

    def test_a_timing_cache_of_another_machine(
        self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path
    ) -> None:
        trt = machine.install(generation)
        cache = tmp_path / "timing.cache"
        cache.write_bytes(b"of another machine")
        result = run(machine, onnx_file(), timing_cache=str(cache))
        assert result.remarks == [f"{cache}: damaged, or of another TensorRT or GPU: all tactics are timed anew"]
        assert cache.read_bytes() == trt.__version__.encode()
        assert run(machine, onnx_file(), timing_cache=str(cache)).remarks == []
        assert f"IBuilderConfig.create_timing_cache({len(trt.__version__)} bytes)" in trt._calls

    def test_a_timing_cache_that_only_the_log_refuses(
        self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path
    ) -> None:
        trt = machine.install(generation)
        trt._reads_no_timings = True
        cache = tmp_path / "timing.cache"
        cache.write_bytes(b"damaged")
        result = run(machine, onnx_file(), timing_cache=str(cache))
        assert result.remarks == [f"{cache}: damaged, or of another TensorRT or GPU: all tactics are timed anew"]

    def test_a_builder_or_runtime_that_cannot_be_made(
        self, generation: str, machine: Machine, onnx_file: Make, tmp_path: Path
    ) -> None:
        trt = machine.install(generation)
        trt._makes_nothing = True
        with pytest.raises(RuntimeFailure, match=r"^TensorRT: its Builder cannot be made here: CUDA init.*35$"):
            run(machine, onnx_file())
        with pytest.raises(RuntimeFailure, match=r"^TensorRT: its Runtime cannot be made here: CUDA init.*35$"):
            NamedSession(trt, Cuda(), b"")

    def test_other_gpus_than_this(self, generation: str, machine: Machine, onnx_file: Make) -> None:
        machine.install(generation)
        with pytest.raises(RuntimeFailure, match="capability 75: only TensorRT for RTX builds for other GPUs"):
            run(machine, onnx_file(), compute_capability=75)


def test_progress_is_told(machine: Machine, onnx_file: Make) -> None:
    lines: list[str] = []
    machine.install("10.3")
    run(machine, onnx_file(), lines=lines)
    assert lines == ["Building Engine: 2 steps"]


def test_a_sign_of_life_where_there_is_no_monitor() -> None:
    lines: list[str] = []
    watcher = Watcher(lines.append, every=0.01)
    with watcher:
        while len(lines) < 2:
            pass
    assert lines[0].startswith("building for 0 s")
    said = len(lines)
    assert watcher._thread is not None
    assert not watcher._thread.is_alive()
    assert len(lines) == said


def test_ctrl_c_stops_a_build(machine: Machine, onnx_file: Make) -> None:
    trt = machine.install("10.13")

    def say(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(trt, Cuda(), str(onnx_file()), BuildOptions(), None, say)
    assert trt._calls[-1] == "build cancelled"


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RuntimeFailure, match="folder: is a folder; name a file"):
        write_atomic(str(tmp_path / "folder"), b"content")
    with pytest.raises(RuntimeFailure, match="name: cannot be written"):
        write_atomic(str(tmp_path / "none" / "name"), b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(RuntimeFailure, match="none: cannot be read"):
        sha256_of(str(tmp_path / "none"))


def test_deviations() -> None:
    expected = np.array([1.0, -4.0, 2.0], np.float32)
    assert deviation(expected, expected) == 0
    assert deviation(expected, expected + 0.5) == 0.125
    for nothing in (np.nan, np.inf):
        assert deviation(expected, np.array([1.0, nothing, 2.0], np.float32)) == np.inf
    assert deviation(np.zeros(2), np.full(2, 0.25)) == 0.25
    assert deviation(np.zeros(0), np.zeros(0)) == 0
    with pytest.raises(RuntimeFailure, match="output a: missing"):
        compare({"a": expected}, {})
    with pytest.raises(RuntimeFailure, match=r"output a: of shape \(1,\), expected shape \(3,\)"):
        compare({"a": expected}, {"a": np.zeros(1)})
