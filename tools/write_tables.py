"""Writes the table of section kinds in README.md from what `darkprune.layers` declares.

python tools/write_tables.py          # writes the file
python tools/write_tables.py --check  # exit status 1 if it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

import darkprune.onnx.nodes.layers  # noqa: F401  (imported to register)
from darkprune.layers import KINDS, Kind
from darkprune.layers.heads import Detection, Head
from darkprune.layers.simple import Contrastive
from darkprune.network.modules import MODULES
from darkprune.onnx.nodes.layer_writer import UNSUPPORTED, WRITERS

README = Path(__file__).parents[1] / "README.md"
WITHOUT_LOSS = (Contrastive, Detection)  #: darknet has losses for them that are not here
BEGIN, END = "<!-- sections: tools/write_tables.py writes them -->\n", "<!-- end of sections -->\n"


def _channels(kind: type[Kind]) -> str:
    """Says what happens to the channels of a kind."""
    if kind.is_dense is not Kind.is_dense:
        return "pruned"
    if kind.constant is not Kind.constant:
        return "follow those of its inputs"
    return "all stay"


def sections_table() -> str:
    """Returns a row per set of kinds that are treated alike."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for kind in dict.fromkeys(KINDS.values()):
        trained = "yes" if kind in MODULES and kind not in WITHOUT_LOSS else "–"
        is_head = issubclass(kind, Head)  # decoded after the layers, in the form that is asked for
        exported = "yes" if is_head or (kind in WRITERS and kind not in UNSUPPORTED) else "–"
        rows.setdefault((_channels(kind), trained, exported), []).append(f"`{kind.names[0]}`")
    lines = ["| sections | their channels | training | ONNX |", "|---|---|---|---|"]
    lines += [f"| {' '.join(names)} | {' | '.join(treated)} |" for treated, names in rows.items()]
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Returns the README with the table as it should be."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + sections_table() + "\n" + END + rest.split(END)[1]


def main() -> int:
    text = README.read_text(encoding="utf-8")
    wanted = with_table(text)
    if "--check" in sys.argv:
        return int(text != wanted)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
