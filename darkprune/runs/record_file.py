"""Many records in one file, for work that one process does at a time: the stages of a run, the points of a sweep."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path

from darkprune import __version__
from darkprune.errors import OutputError
from darkprune.progress import say
from darkprune.runs.digests import digest_of_file
from darkprune.runs.json_file import MAX_BYTES, JsonValue, read_json, write_json
from darkprune.runs.record import Record, path_text


def cache_folder() -> Path:
    """Returns the folder of files that have no better place; it need not exist.

    It is `$XDG_CACHE_HOME/darkprune`, by default `~/.cache/darkprune`.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkprune"


class RecordFile:
    """A file of records by name; it is on the disk, as a whole, after every change.

    Attributes:
        path: of the file.
        about: what all records have in common, such as the digests of the network: part of the file, not of any key.
        records: by name, in the order in which they were made.
        written: path of every file that was ever written, relative to the folder where it lies in it, and its digest.
    """

    def __init__(self, path: Path, form: str, about: Mapping[str, object], records_as: str = "records") -> None:
        """Begins without records; nothing is written before the first is kept.

        Args:
            form: format tag that the file begins with ("darkprune-run/1").
            records_as: name of the records in the file.
        """
        self.path, self.about = path, dict(about)
        self.records: dict[str, Record] = {}
        self.written: dict[str, str] = {}
        self._form, self._records_as = form, records_as

    def load(self) -> JsonValue:
        """Takes up the records that the file holds.

        Returns:
            What else stands in the file: `about` as it was.

        Raises:
            OutputError: it cannot be read, or is no such file.
        """
        data = read_json(self.path, "the records of a run", MAX_BYTES, OutputError)
        if data["format"].text != self._form:
            raise OutputError(f"{self.path}: is not the record of a run (its format is not {self._form})")
        try:
            self.records = {n: Record.from_json(entry) for n, entry in data[self._records_as].fields.items()}
        except ValueError as error:
            raise OutputError(f"{self.path}: is not the record of a run ({error})") from None
        self.written = {name: digest.text for name, digest in data["written"].fields.items()}
        for record in self.records.values():
            self.written.update(record.outputs)
        return data

    def find(self, name: str, key: str) -> Record | None:
        """Returns a record; None where there is none of this name and key."""
        record = self.records.get(name)
        return record if record is not None and record.key == key else None

    def keep(self, name: str, record: Record) -> None:
        """Keeps a record in the place of an earlier one.

        Raises:
            OutputError: it cannot be written.
        """
        self.records[name] = record
        self.written.update(record.outputs)
        self.write()

    def drop(self, names: Iterable[str]) -> None:
        """Forgets records, when the file is written next; what was written stays known."""
        for name in list(names):
            self.records.pop(name, None)

    def put_aside(self, path: Path) -> None:
        """Renames a file, if there is one, whose content is not what the run wrote there: it is the user's.

        Raises:
            OutputError: it cannot be renamed.
        """
        known = self.written.get(path_text(path, self.path.parent))
        if not os.path.lexists(path) or (path.is_file() and digest_of_file(path) == known):
            return
        names = (path.with_name(f"{path.name}.kept{number}") for number in count(1))
        place = next(name for name in names if not os.path.lexists(name))
        try:
            path.rename(place)
        except OSError as error:
            raise OutputError(f"{path}: is not of this run, and cannot be renamed ({error.strerror})") from None
        say(f"warning: {path} is not what this run wrote there; it is kept as {place.name}")

    def write(self) -> None:
        """Writes the file.

        Raises:
            OutputError: it cannot be written.
        """
        records = {name: record.to_json() for name, record in self.records.items()}
        data = {"format": self._form, "darkprune": __version__, **self.about, self._records_as: records}
        if self.written:
            data["written"] = self.written
        write_json(self.path, data)
