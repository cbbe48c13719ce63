"""Fakes of TensorRT and CUDA for the tests of engines and kits."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_cudart import FakeCudart
from fake_tensorrt import TABLE, FakeTensorRT

from darkprune import targets
from darkprune.kit.board.runtime.build import BuildOptions
from darkprune.kit.board.runtime.command import MODULES
from darkprune.kit.board.runtime.model import Model
from darkprune.kit.writer import KitParts, WrittenKit, write_folder
from darkprune.tensorrt import engine
from tests.engines.models import save

GENERATIONS = tuple(TABLE["generations"])


def write_kit(folder: Path, onnx_path: Path, what: Model, where: str, **how: Any) -> WrittenKit:
    parts = {name: how.pop(name) for name in ("calibration_cache", "cfg", "weights", "deepstream_onnx") if name in how}
    return write_folder(folder, KitParts(onnx_path, **parts), what, targets.target(where), **how)


def build(source: Path, path: Path, where: str = "workstation", **options: Any) -> engine.BuiltEngine:
    place = targets.target(where)
    how = {name: options.pop(name) for name in ("images", "overwrite") if name in options}
    return engine.build(source, path, BuildOptions(workspace_mb=place.workspace_mb, **options), place, **how)


class Machine:
    """A pretended machine: a GPU and a TensorRT."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.cudart = FakeCudart()
        self.trt: FakeTensorRT | None = None

    def install(self, generation: str, gpu: str = "Fake GPU", **speed: bool) -> FakeTensorRT:
        self.cudart = FakeCudart(gpu)
        self.trt = FakeTensorRT(generation, self.cudart, **speed)
        self._patch.setitem(sys.modules, "tensorrt", self.trt)
        self._own_process = ctypes.CDLL(None, use_errno=True)
        self._patch.setattr(ctypes, "CDLL", self._load)
        return self.trt

    def remove(self) -> None:
        for name in MODULES:
            self._patch.setitem(sys.modules, name, None)  # makes the import fail

    def _load(self, name: str | None, *rest: object, **more: Any) -> Any:
        if "libcudart" in str(name):
            return self.cudart
        if name is None:  # the process itself: the C library, which every machine has
            return self._own_process
        raise OSError(f"{name}: the fake machine does not have it")


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thirds of the time of these tests would be spent on a disk that nobody reads after."""
    monkeypatch.setattr(os, "fsync", lambda number: None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "tiny.onnx", **how: object) -> Path:
        return save(tmp_path / name, **how)

    return make
