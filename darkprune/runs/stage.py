"""A stage: a command, what it reads, what it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from darkprune.runs.sources import Source

#: value of a flag: a switch, text, texts of a flag that is repeated, or something that is read
Value = str | bool | tuple[str, ...] | Source


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: unique in the run, `evaluate` or `evaluate: pruned`; the part before the colon is what users skip by.
        command: the command that does it.
        reads: positional arguments.
        flags: long flags without dashes, and their values.
        how: flags that do not change the result, such as the device.
        output: folder or file that it makes, which `-o` names; None for figures alone.
        files: what has to be there afterwards.
        resumable: whether the command takes `--resume` and goes on from `state.pt` in its folder.
        own: whether it is no command of its own, but done by the run itself.
    """

    name: str
    command: str
    reads: tuple[Source, ...]
    flags: Mapping[str, Value]
    how: Mapping[str, Value]
    output: Path | None = None
    files: tuple[Path, ...] = ()
    resumable: bool = False
    own: bool = False

    @property
    def kind(self) -> str:
        """The name that users know it by."""
        return self.name.partition(":")[0]

    @property
    def state(self) -> Path | None:
        """What an interrupted training goes on from."""
        return self.output / "state.pt" if self.resumable and self.output is not None else None

    def sources(self) -> list[Source]:
        """Lists everything that it reads."""
        return [*self.reads, *(value for value in self.flags.values() if isinstance(value, Source))]

    def settings(self) -> dict[str, str]:
        """Returns what is set, in plain text."""
        return {name: str(value) for name, value in sorted(self.flags.items()) if not isinstance(value, Source)}

    def inputs(self) -> dict[str, str]:
        """Returns the digest of everything that it reads, by role.

        Raises:
            OSError, DataError: something is not there.
        """
        return {source.role: source.digest() for source in self.sources()}

    def arguments(self) -> list[str]:
        """Returns the command line behind the command, without `--resume` and `--overwrite`."""
        line = [str(source.path) for source in self.reads]
        for name, value in {**self.flags, **self.how}.items():
            if value is True:
                line.append(f"--{name}")
            elif value is False:
                line.append(f"--no-{name}")
            else:
                for each in value if isinstance(value, tuple) else (value,):
                    text = str(each.path if isinstance(each, Source) else each)
                    # a value may begin with a dash
                    line += [f"--{name}={text}"] if text.startswith("-") else [f"--{name}", text]
        return line if self.output is None else [*line, "-o", str(self.output)]


def key_of(command: str, settings: Mapping[str, str], inputs: Mapping[str, str]) -> str:
    """Returns the hash of all that decides a stage's result."""
    text = json.dumps([command, dict(sorted(settings.items())), dict(sorted(inputs.items()))])
    return sha256(text.encode()).hexdigest()
