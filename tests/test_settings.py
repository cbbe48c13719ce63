"""Settings are declared once: flags, TOML keys and arguments give the same values, and are refused alike."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from typing import Any, Literal

import pytest

import darkprune as dp
from darkprune.cli.flags import add_flags, read_flags
from darkprune.errors import UsageError
from darkprune.graph.stats import totals
from darkprune.selection.budget import parse_budget, parse_latency
from darkprune.settings import PathLike, Settings, declared, from_mapping, nearest, setting


@dataclass(frozen=True, kw_only=True)
class Base(Settings):
    """Shared by several commands."""

    seed: int = setting(0, "of the generator")


@dataclass(frozen=True, kw_only=True)
class Example(Base):
    """One field of every form."""

    ratio: float | None = setting(None, "fraction", metavar="P", exclusive="amount")
    ratios: tuple[float, ...] = setting((), "fractions", exclusive="amount")
    layers: tuple[int, ...] = setting((1, 2), "layer numbers", group="layers")
    merge: Literal["vote", "any"] = setting("vote", "how")
    images: PathLike | None = setting(None, "folder")
    skip: tuple[str, ...] = setting((), "stages", repeated=True, choices=("train", "export"))
    overwrite: bool = setting(False, "replace")
    tf32: bool = setting(True, "allow")
    adam: bool | None = setting(None, "use it", default_text="as the cfg says")
    begin: str | None = setting(None, "a stage", flag="from")
    batch: int | str = setting(1, "or 100 % of them", metavar="N|all")
    hidden: int = 7

    def __post_init__(self) -> None:
        """Checks the ratio."""
        super().__post_init__()
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise UsageError(f"--ratio {self.ratio}: at least 0 and below 1")


def parsed(*arguments: str) -> Example:
    parser = ArgumentParser(exit_on_error=False)
    add_flags(parser, Example)
    return read_flags(Example, parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "table", "expected"),
    [
        ("", {}, Example()),
        ("--ratio 0.5", {"ratio": 0.5}, Example(ratio=0.5)),
        ("--ratio 50%", {"ratio": "50%"}, Example(ratio=0.5)),
        ("--ratio 0", {"ratio": 0}, Example(ratio=0.0)),
        ("--ratios 0.1,20%", {"ratios": [0.1, "20%"]}, Example(ratios=(0.1, 0.2))),
        ("--layers 3,-4", {"layers": [3, -4]}, Example(layers=(3, -4))),
        ("--layers 3", {"layers": 3}, Example(layers=(3,))),
        ("--merge any", {"merge": "any"}, Example(merge="any")),
        ("--images photos", {"images": "photos"}, Example(images="photos")),
        ("--skip train --skip export", {"skip": ["train", "export"]}, Example(skip=("train", "export"))),
        ("--overwrite", {"overwrite": True}, Example(overwrite=True)),
        ("--no-tf32", {"tf32": False}, Example(tf32=False)),
        ("--adam", {"adam": True}, Example(adam=True)),
        ("--no-adam", {"adam": False}, Example(adam=False)),
        ("--from export", {"from": "export"}, Example(begin="export")),
        ("--from export", {"begin": "export"}, Example(begin="export")),
        ("--batch 4", {"batch": "4"}, Example(batch="4")),
        ("--seed 3", {"seed": 3}, Example(seed=3)),
    ],
)
def test_flags_and_tables_give_the_same(arguments: str, table: dict[str, object], expected: Example) -> None:
    assert parsed(*arguments.split()) == expected
    assert from_mapping(Example, table) == expected


@pytest.mark.parametrize(
    ("arguments", "table", "message"),
    [
        ("--seed x", {"seed": "x"}, "--seed x: give a whole number"),
        ("--ratio half", {"ratio": "half"}, "--ratio half: give a number"),
        ("--ratio %", {"ratio": "%"}, "--ratio %: give a number"),
        ("--ratio 150%", {"ratio": "150%"}, "--ratio 1.5: at least 0 and below 1"),
        ("--layers 1,x", {}, "--layers 1,x: give whole numbers separated by commas"),
        ("--merge vot", {"merge": "vot"}, "--merge vot: did you mean vote?"),
        ("--merge x", {"merge": "x"}, "--merge x: choose from vote, any"),
        ("--skip prune", {"skip": ["prune"]}, "--skip prune: choose from train, export"),
    ],
)
def test_values_that_cannot_be_read(arguments: str, table: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parsed(*arguments.split())
    assert str(refused.value) == message
    if table:
        with pytest.raises(UsageError) as refused:
            from_mapping(Example, table)
        assert str(refused.value) == message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sed": 1}, "run.toml: there is no sed; did you mean seed?"),
        ({"hidden": 1}, "run.toml: there is no hidden; there are seed, ratio"),
        ({"overwrite": "true"}, "run.toml: overwrite = true: give true or false"),
        ({"overwrite": 1}, "run.toml: overwrite = 1: give true or false"),
        ({"seed": True}, "run.toml: seed = True: give a whole number"),
        ({"seed": [1]}, "run.toml: seed = [1]: give a whole number"),
        ({"layers": True}, "run.toml: layers = True: give a list"),
        ({"images": {}}, "run.toml: images = {}: give text"),
    ],
)
def test_tables_of_other_types(table: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        from_mapping(Example, table, "run.toml")
    assert str(refused.value).startswith(message)


@dataclass(frozen=True, kw_only=True)
class Bounded(Settings):
    """Numbers with bounds."""

    steps: int | None = setting(None, "of the run", at_least=1)
    rate: float = setting(0.1, "of learning", above=0)
    keep: tuple[float, ...] = setting((0.5,), "fractions", flag="kept", at_least=0, below=1)
    s: float | str = setting("auto", "or auto", at_least=0, at_most=1)
    free: float = setting(0.0, "any")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"rate": 0.0}, "--rate 0: must be above 0"),
        ({"rate": float("nan")}, "--rate nan: must be above 0"),
        ({"rate": float("inf")}, "--rate inf: must be above 0"),
        ({"keep": (0.5, 1.0)}, "--kept 1: must be at least 0 and below 1"),
        ({"s": 1.5}, "--s 1.5: must be at least 0 and at most 1"),
    ],
)
def test_numbers_outside_their_bounds(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        Bounded(**given)
    assert str(refused.value) == message


def test_choices_and_contradictions_are_checked_of_arguments_too() -> None:
    for given, message in (
        ({"merge": "vot"}, "--merge vot: did you mean vote?"),
        ({"skip": ("train", "prune")}, "--skip prune: choose from train, export"),
        ({"ratio": 0.5, "ratios": (0.1,)}, "--ratio does not go with --ratios"),
    ):
        with pytest.raises(UsageError) as refused:
            Example(**given)
        assert str(refused.value) == message


def test_numbers_within_their_bounds() -> None:
    assert Bounded(steps=1, rate=1e-9, keep=(), s=1).steps == 1
    assert Example(skip=["train"]).skip == ["train"]  # type: ignore[arg-type]
    assert Bounded(keep=(0, 0.999), s="none", free=float("nan")).keep == (0, 0.999)


def test_help_has_defaults_and_choices() -> None:
    parser = ArgumentParser()
    add_flags(parser, Example)
    shown = " ".join(parser.format_help().split())
    assert "--seed N of the generator (default 0)" in shown
    assert "--merge {vote,any} how (default vote)" in shown
    assert "--layers N layer numbers (default 1,2)" in shown
    assert "layers: --layers" in shown
    assert "--adam, --no-adam use it (default as the cfg says)" in shown
    assert "--batch N|all or 100 % of them (default 1)" in shown
    assert "--overwrite replace" in shown
    assert "--from" in shown  # the flag of `begin`
    assert "--hidden" not in shown


def test_fields_that_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    add_flags(parser, Example)
    with pytest.raises(SystemExit):
        parser.parse_args(["--ratio", "0.5", "--ratios", "0.5"])
    assert "not allowed with argument --ratio" in capsys.readouterr().err


def test_what_is_declared() -> None:
    found = declared(Example)
    assert list(found)[:3] == ["seed", "ratio", "ratios"]
    assert "hidden" not in found
    assert found["images"].type is str
    assert (found["ratio"].type, found["ratio"].optional, found["ratio"].many) == (float, True, False)
    assert (found["layers"].type, found["layers"].many) == (int, True)
    assert found["merge"].choices == ("vote", "any")
    assert found["begin"].flag == "from"


def test_nearest() -> None:
    assert nearest("round_t", ["round-to", "ratio"]) == "did you mean round-to?"
    assert nearest("x", ["a", "b"]) == "there are a, b"


def test_percents_of_budgets() -> None:
    before = totals(dp.load("builtin:scenes").graph)
    for kind in ("macs", "params", "size"):
        assert parse_budget(kind, "65%", before) == parse_budget(kind, "0.65", before)
    assert parse_latency("60%") == parse_latency("0.6") == (0.6, True)
    with pytest.raises(UsageError, match="ask for less than that"):
        parse_budget("macs", "165%", before)
