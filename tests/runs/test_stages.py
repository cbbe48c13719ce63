"""Stages that follow one another: what is done, in which order, and what is said of the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from darkprune.errors import OutputError
from darkprune.progress import ProgressEvent, reporting
from darkprune.runs import stages as module
from darkprune.runs.outlook import Outlook
from darkprune.runs.record_file import RecordFile
from darkprune.runs.stages import FileSource, Stage, look_ahead, run_stages


def stage(folder: Path, name: str, reads: str, cost: float = 0.0, work: Callable[[], object] = lambda: None) -> Stage:
    """A stage that copies a file in capitals."""

    def copy(resume: bool) -> dict[str, object]:
        work()
        (folder / name).write_text((folder / reads).read_text().upper())
        return {"length": len(reads)}

    source = FileSource("text", folder / reads)
    return Stage(name=name, step="copy", work=copy, sources=(source,), files=(folder / name,), cost=cost)


def lines(stages: list[Stage], records: RecordFile, speed: float = 0.0) -> list[str]:
    events: list[ProgressEvent] = []
    with reporting(events.append):
        run_stages(stages, records, lambda: speed)
    return [event.message for event in events if event.message]


@pytest.fixture
def records(tmp_path: Path) -> RecordFile:
    (tmp_path / "text").write_text("abc")
    return RecordFile(tmp_path / "m.json", "darkprune-run/2", {}, "stages")


def test_what_is_done_stays_and_what_follows_from_a_change_is_done_again(tmp_path: Path, records: RecordFile) -> None:
    stages = [stage(tmp_path, "first", "text"), stage(tmp_path, "second", "first")]
    assert lines(stages, records) == ["[stage 1 of 2] first: to be done", "[stage 2 of 2] second: to be done"]
    assert lines(stages, records) == ["[stage 1 of 2] first: up to date", "[stage 2 of 2] second: up to date"]
    (tmp_path / "text").write_text("ABC")  # in capitals it is the same
    assert [status.why for _, status in look_ahead(stages, records)] == [
        "to be done again: other text", "done, to be looked at again after first"]  # fmt: skip
    assert lines(stages, records)[1] == "[stage 2 of 2] second: up to date"
    (tmp_path / "second").unlink()
    assert "second is gone" in lines(stages, records)[1]


def test_an_upgrade_does_everything_again(tmp_path: Path, records: RecordFile, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [stage(tmp_path, "first", "text")]
    lines(stages, records)
    origin = module.Origin
    monkeypatch.setattr(module, "Origin", lambda *parts: origin(*parts, program="99.0"))
    (line,) = lines(stages, records)
    assert "→ 99.0" in line


def test_a_stage_that_leaves_nothing_is_an_error(tmp_path: Path, records: RecordFile) -> None:
    lazy = Stage(name="lazy", step="x", work=lambda resume: {}, files=(tmp_path / "nothing",))
    with pytest.raises(OutputError, match="lazy was to write it, and did not"):
        run_stages([lazy], records)
    assert not records.records["lazy"].done


def test_an_interrupted_stage_says_so(tmp_path: Path, records: RecordFile) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lines([stage(tmp_path, "first", "text", work=interrupt)], records)
    assert lines([stage(tmp_path, "first", "text")], records) == [
        "[stage 1 of 1] first: to be done: it was interrupted"
    ]


def test_only_leftovers_of_killed_processes_are_removed(tmp_path: Path, records: RecordFile) -> None:
    output = tmp_path / "first"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    (tmp_path / ".first.partial-abcdefgh").mkdir()
    work = lambda resume: {}  # noqa: E731
    run_stages([Stage(name="first", step="x", work=work, output=output)], records)
    assert (output / "mine.txt").read_text() == "mine"
    assert not (tmp_path / ".first.partial-abcdefgh").exists()


def test_what_the_run_has_not_written_is_kept(tmp_path: Path, records: RecordFile) -> None:
    (tmp_path / "first").write_text("mine")
    stages = [stage(tmp_path, "first", "text"), stage(tmp_path, "second", "first")]
    assert "kept as first.kept1" in lines(stages, records)[1]
    assert (tmp_path / "first.kept1").read_text() == "mine"
    assert lines(stages, records) == ["[stage 1 of 2] first: up to date", "[stage 2 of 2] second: up to date"]
    (tmp_path / "second").write_text("edited")
    assert "kept as second.kept1" in lines(stages, records)[2]
    assert (tmp_path / "second.kept1").read_text() == "edited"
    again = RecordFile(records.path, "darkprune-run/2", {}, "stages")  # forgets the stages, not what they wrote
    again.load()
    again.drop(again.records)
    assert lines(stages, again) == ["[stage 1 of 2] first: to be done", "[stage 2 of 2] second: to be done"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "first", "first.kept1", "m.json", "second", "second.kept1", "text"]  # fmt: skip


@pytest.mark.parametrize("resumable", [True, False])
def test_files_of_an_interrupted_stage_are_its_own_where_it_can_go_on(
    resumable: bool, tmp_path: Path, records: RecordFile
) -> None:
    def interrupt() -> None:
        (tmp_path / "first").write_text("half")
        raise KeyboardInterrupt

    def made(work: Callable[[], object] = lambda: None) -> Stage:
        return replace(stage(tmp_path, "first", "text", work=work), state=tmp_path / "state" if resumable else None)

    with pytest.raises(KeyboardInterrupt):
        lines([made(interrupt)], records)
    lines([made()], records)
    assert (tmp_path / "first.kept1").exists() is not resumable


def test_files_that_a_stage_may_write_besides_are_kept_too(tmp_path: Path, records: RecordFile) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text("mine")

    def work(resume: bool) -> dict[str, object]:
        plan.write_text("plan")
        return {}

    made = Stage(name="first", step="x", work=work, may_write=(plan, tmp_path / "other"))
    run_stages([made], records)
    records.drop(["first"])
    run_stages([made], records)
    assert {path.name: path.read_text() for path in tmp_path.glob("plan*")} == {
        "plan.json": "plan", "plan.json.kept1": "mine"}  # fmt: skip


def test_time_is_estimated_before_and_corrected_by_what_was_measured(
    tmp_path: Path, records: RecordFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "time", lambda: clock[0])

    def slow() -> None:
        clock[0] += 240  # twice as long as was thought

    stages = [stage(tmp_path, "first", "text", 60, slow), stage(tmp_path, "second", "first", 300)]
    assert lines(stages, records, speed=2.0) == [
        "[roughly 12 min left, stage 1 of 2, 2 min] first: to be done",
        "[roughly 20 min left, stage 2 of 2] second: to be done",
    ]
    assert [line.partition(": ")[2] for line in lines(stages, records, speed=2.0)] == ["up to date"] * 2


def test_without_estimates_only_the_number_is_said() -> None:
    outlook = Outlook(6, {})
    assert outlook.of_stage(2, "prune") == "[stage 2 of 6] prune"
