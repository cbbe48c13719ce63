"""`manifest.json`: the records of a run's stages, and the network that the run is about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from darkprune.errors import OutputError
from darkprune.runs.record_file import RecordFile

NAME = "manifest.json"
FORMAT = "darkprune-run/2"


def open_manifest(folder: Path, network: Mapping[str, str], anew: bool = False) -> RecordFile:
    """Takes up the records of a folder, or begins with none; nothing is written yet.

    Args:
        folder: of the run.
        network: digests of `cfg` and `weights`.
        anew: forget what the folder holds.

    Raises:
        OutputError: the folder holds something else, or a run of another network.
    """
    records = RecordFile(folder / NAME, FORMAT, {"network": dict(network)}, "stages")
    if not records.path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder}: holds no {NAME}, so it is no earlier run; choose another -o")
        return records
    if anew:
        return records
    try:
        known = records.load()["network"]
    except OutputError as error:
        raise OutputError(f"{error}; give --overwrite to start anew") from None
    for kind, digest in network.items():
        if known[kind].text != digest:
            raise OutputError(
                f"{folder}: is a run of another network (its {kind} has sha256 {known[kind].text[:12]}…, this "
                f"one {digest[:12]}…); choose another -o, or give --overwrite to forget it"
            )
    return records
