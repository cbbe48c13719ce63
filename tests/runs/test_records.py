"""Records, the JSON they lie in, and the lock of a folder: whole, bounded, never trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from darkprune.errors import DataError, OutputError, PlanError
from darkprune.runs.json_file import MAX_DEPTH, find_json, parse_json, read_json, write_json
from darkprune.runs.lock import locked
from darkprune.runs.provenance import made_by_command, write_provenance
from darkprune.runs.record import Input, Origin, Record, fill_file, find_record, read_record, write_record
from darkprune.runs.record_file import RecordFile

ORIGIN = Origin("cut", {"ratio": 0.5, "sizes": [1, 2]}, {"cfg": Input("/a/x.cfg", "00")})
RECORD = Record(
    origin=ORIGIN, result={"map50": 0.5}, outputs={"x.weights": "01"}, command=("darkprune", "prune"), seconds=1.5
)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", RECORD)
    assert read_record(tmp_path / "a.json") == RECORD
    assert find_record(tmp_path / "a.json", ORIGIN.key) == RECORD
    assert find_record(tmp_path / "a.json", Origin("cut").key) is None
    assert find_record(tmp_path / "b.json", ORIGIN.key) is None


def test_an_upgrade_of_the_program_makes_records_stale(tmp_path: Path) -> None:
    earlier = Origin(ORIGIN.step, ORIGIN.settings, ORIGIN.inputs, program="0.0.1")
    write_record(tmp_path / "a.json", Record(origin=earlier, result={"figure": 1}))
    assert fill_file(tmp_path / "a.json", ORIGIN, lambda: {"figure": 2}).result == {"figure": 2}
    assert fill_file(tmp_path / "a.json", ORIGIN, lambda: {"figure": 3}).result == {"figure": 2}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": "darkprune-record/1"}',
        b"[" * 100_000,
        b'{"format": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
        b'{"format": NaN}',
    ],
)
def test_a_damaged_record_is_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.json").write_bytes(damage)
    assert read_record(tmp_path / "a.json") is None
    with pytest.raises(OutputError) as caught:
        book(tmp_path / "a.json").load()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("name", "value"), [("settings", 3), ("done", "yes"), ("seconds", None), ("step", 1)])
def test_fields_of_another_type_make_no_record(tmp_path: Path, name: str, value: object) -> None:
    write_json(tmp_path / "a.json", {"format": "darkprune-record/1", **RECORD.to_json(), name: value})
    assert read_record(tmp_path / "a.json") is None


def test_json_is_bounded_in_size_and_depth(tmp_path: Path) -> None:
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert parse_json(deep, "x").items
    with pytest.raises(DataError, match="nested deeper than"):
        parse_json(b"[" + deep + b"]", "x")
    with pytest.raises(PlanError, match="nested too deeply"):
        parse_json(b"[" * 100_000 + b"]" * 100_000, "x", PlanError)
    with pytest.raises(DataError, match="NaN is no number"):
        parse_json('{"a": NaN}', "x")
    (tmp_path / "large").write_bytes(b" " * 101)
    with pytest.raises(DataError, match="this is not a plan"):
        read_json(tmp_path / "large", "a plan", 100)
    assert find_json(tmp_path / "large", 100) is None
    assert find_json(tmp_path / "missing") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes by name here")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is not a regular file"):
        read_json(tmp_path / "pipe")


def test_a_value_of_unknown_shape_answers_everything() -> None:
    value = parse_json('{"a": [1, "x", null], "n": 1e999, "t": true}', "x")
    assert value["a"].texts == ["x"]
    assert value["a"]["b"]["c"].text == ""
    assert [entry.number for entry in value["a"].items] == [1, None, None]
    assert (value["n"].number, value["t"].number) == (None, None)
    assert value["a"].fields == {}


def book(path: Path) -> RecordFile:
    return RecordFile(path, "darkprune-run/2", {"network": {"cfg": "00"}}, "stages")


def test_many_records_lie_in_one_file(tmp_path: Path) -> None:
    first = book(tmp_path / "m.json")
    first.keep("prune", RECORD)
    first.keep("train", Record(origin=Origin("train"), done=False))
    second = book(tmp_path / "m.json")
    assert second.load()["network"]["cfg"].text == "00"
    assert second.records == first.records
    assert second.find("prune", ORIGIN.key) == RECORD
    assert second.find("prune", "other") is None
    second.drop(["prune", "missing"])
    second.write()
    assert list(json.loads((tmp_path / "m.json").read_text())["stages"]) == ["train"]


def test_another_format_is_refused(tmp_path: Path) -> None:
    RecordFile(tmp_path / "m.json", "darkprune-run/1", {}).keep("prune", RECORD)
    with pytest.raises(OutputError, match="its format is not darkprune-run/2"):
        book(tmp_path / "m.json").load()


def test_a_folder_has_one_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        for shared in (False, True):
            with (
                pytest.raises(OutputError, match="another darkprune is at work in it"),
                locked(tmp_path / "run", shared),
            ):
                pass
    shared_twice = locked(tmp_path / "run", shared=True), locked(tmp_path / "run", shared=True)
    with shared_twice[0], shared_twice[1], pytest.raises(OutputError), locked(tmp_path / "run"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "file"):
        pass


def test_provenance_names_commands_and_inputs(tmp_path: Path) -> None:
    for line in ("darkprune train a", "darkprune train a --resume", "darkprune train a"):
        with made_by_command(line):
            write_provenance(tmp_path, ORIGIN.inputs, goes_on=True)
    made = json.loads((tmp_path / "run.json").read_text())
    assert made["commands"] == ["darkprune train a", "darkprune train a --resume"]
    assert made["inputs"] == {"cfg": {"path": "/a/x.cfg", "sha256": "00"}}
    write_provenance(tmp_path, {})
    assert json.loads((tmp_path / "run.json").read_text())["commands"] == []
