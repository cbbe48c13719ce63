"""How a result was made, for whoever reads it: command, versions, inputs. Nothing is decided by it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path

from darkprune import __version__
from darkprune.runs.json_file import find_json, write_json
from darkprune.runs.record import Input

NAME = "run.json"  #: in a folder that is filled over several sessions

_command: ContextVar[str] = ContextVar("command", default="")


@contextmanager
def made_by_command(line: str) -> Iterator[None]:
    """Lets results that are written in this block name a command line: the one typed, or an equivalent one."""
    before = _command.set(line)
    try:
        yield
    finally:
        _command.reset(before)


def provenance(inputs: Mapping[str, Input] | None = None) -> dict[str, object]:
    """Returns how a result is made now: `commands`, `versions` of what takes part, and `inputs` where given."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in ("numpy", "cv2", "torch")}
    versions = {"Python": sys.version.split()[0], **{name: str(text) for name, text in loaded.items() if text}}
    command = _command.get()
    made: dict[str, object] = {"commands": [command] if command else [], "versions": versions}
    if inputs:
        made["inputs"] = {role: asdict(entry) for role, entry in inputs.items()}
    return made


def write_provenance(folder: Path, inputs: Mapping[str, Input], goes_on: bool = False) -> None:
    """Writes how a folder is made, to `run.json` in it.

    Args:
        goes_on: the folder holds results of earlier commands, which stay named.

    Raises:
        OutputError: it cannot be written.
    """
    path = folder / NAME
    made = {"darkprune": __version__, **provenance(inputs)}
    earlier = find_json(path) if goes_on else None
    if earlier is not None:
        now = _command.get()
        made["commands"] = list(dict.fromkeys([*earlier["commands"].texts, *([now] if now else [])]))
    write_json(path, made)
