"""Networks and checkpoints that come with darkprune: the project's folders `cfg/` and `weights/`."""

from __future__ import annotations

from pathlib import Path

from darkprune.errors import CfgError

PREFIX = "builtin:"


def folder(kind: str) -> Path:
    """Returns the folder of the networks (`cfg`) or of the checkpoints (`weights`).

    An installed darkprune has them inside this package; in a checkout they stand at the top.
    """
    here = Path(__file__).parent
    inside = here / kind
    return inside if inside.is_dir() else here.parents[1] / kind


def names() -> list[str]:
    """Lists the networks that come with darkprune."""
    return sorted(path.stem for path in folder("cfg").glob("*.cfg"))


def resolve(argument: str, kind: str = "cfg") -> Path:
    """Returns the path that a command-line argument means: itself, or for `builtin:NAME` one of darkprune's own files.

    Raises:
        CfgError: darkprune brings no file of that name.
    """
    if not argument.startswith(PREFIX):
        return Path(argument)
    name = argument.removeprefix(PREFIX).removesuffix(f".{kind}")
    path = folder(kind) / f"{name}.{kind}"
    if "/" in name or not path.is_file():
        brought = sorted(p.stem for p in folder(kind).glob(f"*.{kind}"))
        raise CfgError(f"{argument}: darkprune brings no such .{kind}; it brings {', '.join(brought) or 'none'}")
    return path
