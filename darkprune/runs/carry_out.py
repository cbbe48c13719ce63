"""Carrying out stages: what is done stays, what was interrupted goes on, what changed is done again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from darkprune.errors import DarkpruneError, OutputError
from darkprune.runs.manifest import Entry, Manifest
from darkprune.runs.sources import Source
from darkprune.runs.stage import Stage, key_of

#: called with a stage and further flags, does it and returns what it reports
Do = Callable[[Stage, Sequence[str]], dict[str, Any]]
#: called with a stage, whether it has to be done, and why or why not
Tell = Callable[[Stage, "Standing"], None]


@dataclass(frozen=True)
class Standing:
    """Where a stage stands.

    Attributes:
        todo: whether there is anything to do.
        why: in words.
        resume: whether it goes on from a state.
        key, inputs: of the stage now; empty where something that it reads is yet to be made.
    """

    todo: bool
    why: str
    resume: bool = False
    key: str = ""
    inputs: tuple[tuple[str, str], ...] = ()


def carry_out(stages: Sequence[Stage], manifest: Manifest, do: Do, tell: Tell) -> None:
    """Does what is to be done, in order; the manifest is up to date whenever this is left.

    Raises:
        DarkpruneError: a stage failed, or left no file that it should have.
        KeyboardInterrupt: a stage was interrupted; training has saved its state.
    """
    for stage in stages:
        standing = stand_of(stage, manifest)
        tell(stage, standing)
        if standing.todo:
            _do(stage, standing, manifest, do)


def look_ahead(stages: Iterable[Stage], manifest: Manifest) -> list[tuple[Stage, Standing]]:
    """Says where every stage stands, without doing any."""
    found: list[tuple[Stage, Standing]] = []
    pending: dict[Path, str] = {}
    for stage in stages:
        after = next((pending[path] for source in stage.sources() if (path := source.path) in pending), None)
        if after is None:
            standing = stand_of(stage, manifest)
        else:
            known = "to be done" if stage.name not in manifest.entries else "done, to be looked at again"
            standing = Standing(True, f"{known} after {after}")
        if standing.todo:
            pending.update(dict.fromkeys(stage.files, stage.name))
        found.append((stage, standing))
    return found


def stand_of(stage: Stage, manifest: Manifest) -> Standing:
    """Compares a stage with what the manifest says.

    Raises:
        DarkpruneError: something that it reads cannot be read.
    """
    try:
        inputs = stage.inputs()
    except OSError as error:
        what = f"cannot be read ({error.strerror}), and stage {stage.name} needs it"
        raise DarkpruneError(f"{error.filename}: {what}") from None
    key = key_of(stage.command, stage.settings(), inputs)
    given = tuple(inputs.items())
    entry = manifest.entries.get(stage.name)
    if entry is None:
        return Standing(True, "to be done", key=key, inputs=given)
    if entry.key != key:
        return Standing(True, _changed(entry, stage, inputs), key=key, inputs=given)
    if not entry.done:
        if stage.state is not None and stage.state.is_file():
            return Standing(True, "to go on where it stopped", True, key, given)
        return Standing(True, "to be done: it was interrupted", key=key, inputs=given)
    for name, digest in entry.outputs.items():
        path = manifest.folder / name
        if not path.is_file():
            return Standing(True, f"to be done: {name} is gone", key=key, inputs=given)
        if Source("", path).digest() != digest:
            return Standing(True, f"to be done: {name} was changed", key=key, inputs=given)
    return Standing(False, "up to date", key=key, inputs=given)


def _do(stage: Stage, standing: Standing, manifest: Manifest, do: Do) -> None:
    folder = manifest.folder
    before = manifest.entries.get(stage.name)
    spent = before.seconds if before is not None and standing.resume else 0.0
    if before is not None and standing.resume and stage.state is not None and not spent:
        # killed outright: what counts is the time up to the state that is left
        spent = max(0.0, stage.state.stat().st_mtime - before.started)
    more = ["--resume"] if standing.resume else []
    if not standing.resume:
        _clear(stage, folder)
    began = time.time()
    command = () if stage.own else ("darkprune", stage.command, *stage.arguments(), *more)
    entry = Entry(standing.key, False, command, stage.settings(), dict(standing.inputs), started=began)
    manifest.put(stage.name, replace(entry, seconds=spent))
    try:
        result = do(stage, more)
    except KeyboardInterrupt:
        manifest.put(stage.name, replace(entry, seconds=spent + time.time() - began))
        raise
    missing = next((path for path in stage.files if not path.is_file()), None)
    if missing is not None:
        raise OutputError(f"{missing}: {stage.name} was to write it, and did not")
    outputs = {path.relative_to(folder).as_posix(): Source("", path).digest() for path in stage.files}
    manifest.put(
        stage.name, replace(entry, done=True, outputs=outputs, result=result, seconds=spent + time.time() - began)
    )


def _clear(stage: Stage, folder: Path) -> None:
    """Removes what an earlier attempt left: a stage begins with nothing."""
    if stage.output is None:
        return
    try:
        if stage.output.is_dir() and not stage.output.is_symlink():
            shutil.rmtree(stage.output)
        else:
            stage.output.unlink(missing_ok=True)
        for path in folder.glob(f".{stage.output.name}.partial-*"):  # of a process that was killed
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be removed ({error.strerror})") from None


def _changed(entry: Entry, stage: Stage, inputs: dict[str, str]) -> str:
    """Says what is other than it was."""
    now = stage.settings()
    differing = [name for name in sorted({*entry.settings, *now}) if entry.settings.get(name) != now.get(name)]
    if differing:
        name = differing[0]
        then, this = (str(values.get(name, "unset"))[:40] for values in (entry.settings, now))
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        return f"to be done again: {name} {then} → {this}{more}"
    roles = [role for role in sorted({*entry.inputs, *inputs}) if entry.inputs.get(role) != inputs.get(role)]
    return f"to be done again: other {', '.join(roles[:3]) or 'command'}"
