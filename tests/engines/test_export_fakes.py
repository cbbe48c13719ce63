"""The fakes are what they claim: the names of one generation, no more and no less, and strict about their use."""

from __future__ import annotations

import pytest
from conftest import GENERATIONS, TABLE, Machine
from fake_tensorrt import VERSIONS


def public(item: object) -> set[str]:
    return {name for name in dir(item) if not name.startswith("_")}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_fake_has_exactly_the_names_of_the_table(generation: str, machine: Machine) -> None:
    trt = machine.install(generation)
    table = TABLE["generations"][generation]
    assert trt.__version__ == VERSIONS[generation]
    for name, members in table["classes"].items():
        wanted = {*members["methods"], *members["properties"], *members["readonly"]}
        if name in ("ILogger", "Logger"):  # pybind11 exports the values of the severity into them
            wanted |= {"Severity", *table["enums"]["ILogger.Severity"]}
        assert public(getattr(trt, name)) == wanted, name
    for name, members in table["enums"].items():
        if "." not in name:
            assert [item.name for item in getattr(trt, name)] == members
    enums = {name for name in table["enums"] if "." not in name}
    assert public(trt) == {*table["classes"], *enums, *table["functions"]}


def test_what_each_generation_lacks(machine: Machine) -> None:
    """The facts that the dialects rest on, spelled out."""
    has = {}
    for generation in GENERATIONS:
        trt = machine.install(generation)
        has[generation] = {
            "workspace size": hasattr(trt.IBuilderConfig, "max_workspace_size"),
            "memory pools": hasattr(trt.IBuilderConfig, "set_memory_pool_limit"),
            "named tensors": hasattr(trt.ICudaEngine, "num_io_tensors"),
            "bindings": hasattr(trt.ICudaEngine, "num_bindings"),
            "precision flags": hasattr(trt.BuilderFlag, "FP16") and hasattr(trt.BuilderFlag, "INT8"),
            "calibrators": hasattr(trt, "IInt8EntropyCalibrator2"),
            "progress": hasattr(trt, "IProgressMonitor"),
            "explicit batch": hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"),
            "strongly typed": hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
            "build_engine": hasattr(trt.Builder, "build_engine"),
        }
    rows = {name: [generation for generation in GENERATIONS if has[generation][name]] for name in has["8.2"]}
    assert rows == {
        "workspace size": ["8.2", "8.4", "8.5", "8.6"],
        "memory pools": ["8.4", "8.5", "8.6", "10.3", "10.13", "11"],
        "named tensors": ["8.5", "8.6", "10.3", "10.13", "11"],
        "bindings": ["8.2", "8.4", "8.5", "8.6"],
        "precision flags": ["8.2", "8.4", "8.5", "8.6", "10.3", "10.13"],
        "calibrators": ["8.2", "8.4", "8.5", "8.6", "10.3", "10.13"],
        "progress": ["10.3", "10.13", "11"],
        "explicit batch": ["8.2", "8.4", "8.5", "8.6", "10.3", "10.13"],
        "strongly typed": ["10.3", "10.13", "11"],
        "build_engine": ["8.2", "8.4", "8.5", "8.6"],
    }


def test_a_fake_is_as_strict_as_the_bindings(machine: Machine) -> None:
    trt = machine.install("10.3")
    log = trt.Logger()
    config = trt.Builder(log).create_builder_config()
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    with pytest.raises(AttributeError):
        config.anything = 1
    with pytest.raises(TypeError):
        trt.IBuilderConfig()
    with pytest.raises(NotImplementedError):
        config.set_tactic_sources(1)

    class Forgetful(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="__init__"):
        Forgetful()
