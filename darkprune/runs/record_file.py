"""Many records in one file, for work that one process does at a time: the stages of a run, the points of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from darkprune import __version__
from darkprune.errors import OutputError
from darkprune.runs.json_file import MAX_BYTES, JsonValue, read_json, write_json
from darkprune.runs.record import Record


class RecordFile:
    """A file of records by name; it is on the disk, as a whole, after every change.

    Attributes:
        path: of the file.
        about: what all records have in common, such as the digests of the network: part of the file, not of any key.
        records: by name, in the order in which they were made.
    """

    def __init__(self, path: Path, form: str, about: Mapping[str, object], records_as: str = "records") -> None:
        """Begins without records; nothing is written before the first is kept.

        Args:
            path: of the file.
            form: format tag that the file begins with ("darkprune-run/1").
            about: what all records have in common.
            records_as: name of the records in the file.
        """
        self.path, self.about = path, dict(about)
        self.records: dict[str, Record] = {}
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
        self.write()

    def drop(self, names: Iterable[str]) -> None:
        """Forgets records, when the file is written next."""
        for name in names:
            self.records.pop(name, None)

    def write(self) -> None:
        """Writes the file.

        Raises:
            OutputError: it cannot be written.
        """
        records = {name: record.to_json() for name, record in self.records.items()}
        data = {"format": self._form, "darkprune": __version__, **self.about, self._records_as: records}
        write_json(self.path, data)
