"""Stages: pieces of work that follow one another in the folder of a run.

A stage that is done stays as it is; one that was interrupted goes on; one for which anything that decides its result
has changed (settings, content of what it reads, the program's version, a file that it made) is done again.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from darkprune.darknet.leftovers import remove_leftovers
from darkprune.errors import DarkpruneError, OutputError
from darkprune.progress import say
from darkprune.runs.digests import digest_of_file
from darkprune.runs.outlook import Outlook
from darkprune.runs.provenance import made_by_command
from darkprune.runs.record import Input, Origin, Record, path_text
from darkprune.runs.record_file import RecordFile


@dataclass(frozen=True)
class FileSource:
    """A file that a stage reads; subclasses are known by something else than its content.

    Attributes:
        role: what it is to the stage: cfg, weights, plan, …
        path: where it lies.
    """

    role: str
    path: Path

    def digest(self) -> str:
        """Returns the digest of its content.

        Raises:
            OSError, DataError: it is not there, or cannot be read.
        """
        return digest_of_file(self.path)


#: does a stage, or goes on with it where told to, and returns its figures as JSON values
Work = Callable[[bool], Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of a run.

    Attributes:
        name: unique in the run, `evaluate` or `evaluate: pruned`; the part before the colon is what users know it by.
        step: what is done; part of its key.
        work: does it.
        settings: those that change the result.
        sources: everything that it reads.
        command: the command line that does the same, as words; empty where there is none.
        output: folder or file that it makes; None for figures alone.
        files: what has to be there afterwards.
        may_write: files that it may write besides.
        state: the file that an interrupted stage goes on from, if it can.
        cost: how much work it is, in any unit that all stages of a run share; 0 where it takes no time.
    """

    name: str
    step: str
    work: Work
    settings: Mapping[str, object] = field(default_factory=dict)
    sources: tuple[FileSource, ...] = ()
    command: tuple[str, ...] = ()
    output: Path | None = None
    files: tuple[Path, ...] = ()
    may_write: tuple[Path, ...] = ()
    state: Path | None = None
    cost: float = 0.0

    @property
    def kind(self) -> str:
        """The name that users know it by."""
        return self.name.partition(":")[0]

    def origin(self, folder: Path) -> Origin:
        """Returns everything that decides the result.

        Raises:
            OSError, DataError: something that it reads is not there.
        """
        inputs = {source.role: Input(path_text(source.path, folder), source.digest()) for source in self.sources}
        return Origin(self.step, self.settings, inputs)


@dataclass(frozen=True)
class Status:
    """Where a stage stands.

    Attributes:
        todo: whether there is anything to do.
        why: in words.
        resume: whether it goes on where it stopped.
        origin: what decides its result now; None where something that it reads is yet to be made.
    """

    todo: bool
    why: str
    resume: bool = False
    origin: Origin | None = None


def run_stages(stages: Sequence[Stage], records: RecordFile, speed: Callable[[], float] = lambda: 0.0) -> None:
    """Does what is to be done, in order; the records are up to date whenever this returns or raises.

    Args:
        speed: gives the seconds that one unit of cost takes, for estimates; called only if there is something to do.

    Raises:
        DarkpruneError: a stage failed, or left no file that it should have.
        KeyboardInterrupt: a stage was interrupted; training has saved its state.
    """
    pending = {stage.name: stage.cost for stage, status in look_ahead(stages, records) if status.todo}
    unit = speed() if sum(pending.values()) else 0.0
    outlook = Outlook(len(stages), {name: cost * unit for name, cost in pending.items()})
    for number, stage in enumerate(stages, 1):
        status = status_of(stage, records)
        if not status.todo:
            say(f"{outlook.of_stage(number, stage.name)}: {status.why}")
            outlook.done(stage.name, None)
            continue
        line = f"{outlook.of_stage(number, stage.name)}: {status.why}"
        say(f"{line}\n$ {shlex.join(stage.command)}" if stage.command else line)
        began = time.time()
        _do(stage, status, records)
        outlook.done(stage.name, time.time() - began)


def look_ahead(stages: Iterable[Stage], records: RecordFile) -> list[tuple[Stage, Status]]:
    """Returns where every stage stands, without doing any."""
    found: list[tuple[Stage, Status]] = []
    pending: dict[Path, str] = {}
    for stage in stages:
        after = next((pending[path] for source in stage.sources if (path := source.path) in pending), None)
        if after is None:
            status = status_of(stage, records)
        else:
            known = "to be done" if stage.name not in records.records else "done, to be looked at again"
            status = Status(True, f"{known} after {after}")
        if status.todo:
            pending.update(dict.fromkeys(stage.files, stage.name))
        found.append((stage, status))
    return found


def status_of(stage: Stage, records: RecordFile) -> Status:
    """Compares a stage with its record.

    Raises:
        DarkpruneError: something that it reads cannot be read.
    """
    folder = records.path.parent
    try:
        origin = stage.origin(folder)
    except OSError as error:
        what = f"cannot be read ({error.strerror}), and stage {stage.name} needs it"
        raise DarkpruneError(f"{error.filename}: {what}") from None
    record = records.records.get(stage.name)
    if record is None:
        return Status(True, "to be done", origin=origin)
    if record.key != origin.key:
        return Status(True, f"to be done again: {_difference(record.origin, origin)}", origin=origin)
    if not record.done:
        if stage.state is not None and stage.state.is_file():
            return Status(True, "to go on where it stopped", True, origin)
        return Status(True, "to be done: it was interrupted", origin=origin)
    for name, digest in record.outputs.items():
        path = folder / name
        if not os.path.isfile(path):
            return Status(True, f"to be done: {name} is gone", origin=origin)
        if digest_of_file(path) != digest:
            return Status(True, f"to be done: {name} was changed", origin=origin)
    return Status(False, "up to date", origin=origin)


def _do(stage: Stage, status: Status, records: RecordFile) -> None:
    assert status.origin is not None
    folder = records.path.parent
    earlier = records.records.get(stage.name)
    spent = earlier.seconds if earlier is not None and status.resume else 0.0
    if earlier is not None and status.resume and stage.state is not None and not spent:
        # killed outright: what counts is the time up to the state that is left
        spent = max(0.0, stage.state.stat().st_mtime - earlier.started)
    if stage.output is not None:
        remove_leftovers(stage.output)
    if not status.resume:
        _put_aside(stage, records)
    began = time.time()
    command = (*stage.command, "--resume") if status.resume and stage.command else stage.command
    record = Record(origin=status.origin, done=False, command=command, started=began, seconds=spent)
    records.keep(stage.name, record)
    try:
        with made_by_command(shlex.join(command)):
            result = stage.work(status.resume)
    except KeyboardInterrupt:
        records.keep(stage.name, replace(record, seconds=spent + time.time() - began))
        raise
    missing = next((path for path in stage.files if not path.is_file()), None)
    if missing is not None:
        raise OutputError(f"{missing}: {stage.name} was to write it, and did not")
    outputs = {path_text(path, folder): digest_of_file(path) for path in stage.files}
    besides = [path for path in stage.may_write if path.is_file()]
    records.written.update({path_text(path, folder): digest_of_file(path) for path in besides})
    seconds = spent + time.time() - began
    records.keep(stage.name, replace(record, done=True, outputs=outputs, result=result, seconds=seconds))


def _put_aside(stage: Stage, records: RecordFile) -> None:
    """Keeps what a stage would replace and the run has not written, under another name."""
    record = records.records.get(stage.name)
    if record is not None and not record.done and stage.state is not None:
        return  # it was interrupted: its files are its own, though no digest is known
    for path in (*stage.files, *stage.may_write):
        records.put_aside(path)


def _difference(then: Origin, now: Origin) -> str:
    """Returns the first of what differs between two origins, in words."""
    differing = [name for name in sorted({*then.settings, *now.settings})
                 if then.settings.get(name) != now.settings.get(name)]  # fmt: skip
    if differing:
        name = differing[0]
        before, after = (str(part.settings.get(name, "unset"))[:40] for part in (then, now))
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        return f"{name} {before} → {after}{more}"
    roles = [
        role
        for role in sorted({*then.inputs, *now.inputs})
        if getattr(then.inputs.get(role), "sha256", None) != getattr(now.inputs.get(role), "sha256", None)
    ]
    if not roles and then.program != now.program:
        return f"darkprune {then.program} → {now.program}"
    return f"other {', '.join(roles[:3]) or 'command'}"
