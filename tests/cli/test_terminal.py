"""What a terminal of a few columns shows: progress on one line with the time left first, tables that fit."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkprune.cli.console import table_lines
from darkprune.cli.main import main
from darkprune.data.scenes import write_scenes
from darkprune.progress import ProgressEvent, announced, reporting
from darkprune.zoo import folder

fcntl = pytest.importorskip("fcntl", reason="pseudo terminals are a matter of Unix")
WIDTHS = (40, 60, 80, 120)
#: work with long names, in a total that is known and in one that is not
_WORK = """
import time
from darkprune.progress import reporting, say, track
with reporting(None):
    for total in (20, 0):
        step = track("evaluating yolov4-tiny-3l-of-the-warehouse at 416x416", total, "image")
        for number in range(20):
            time.sleep(0.04)
            step.at(number, details="loss 2.3112, mAP@0.5 41.20 %, |γ|<0.01: 12 of 40 %, there 0.12, s 0.0021")
    say("done")
"""


def shown(code: str, width: int, environment: dict[str, str] | None = None) -> list[str]:
    """Runs code in terminals of a width and returns the lines that were visible at any moment."""
    return shown_in([width], code, environment)[0]


def shown_in(widths: Sequence[int], code: str, environment: dict[str, str] | None = None) -> list[list[str]]:
    import termios

    running = []
    for width in widths:
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
        own = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES", "TERM")}
        own.update(TERM="xterm", PYTHONPATH=os.pathsep.join(sys.path), **(environment or {}))
        process = subprocess.Popen([sys.executable, "-c", code], stdout=slave, stderr=slave, stdin=slave, env=own)
        os.close(slave)
        running.append((master, process))
    found = []
    for master, process in running:
        data = b""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                part = os.read(master, 1 << 16)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not part:
                break
            data += part
        os.close(master)
        assert process.wait(60) == 0, data.decode()
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "\n", data.decode())
        found.append([line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()])
    return found


def test_progress_stays_on_one_line_with_the_time_left_first() -> None:
    for width, lines in zip(WIDTHS, shown_in(WIDTHS, _WORK), strict=True):
        assert max(map(len, lines)) <= width, (width, max(lines, key=len))
        timed = [line for line in lines if re.match(r"\d\d:\d\d left, \d+ %: evaluating", line)]
        counted = [line for line in lines if line.startswith("evaluating")]
        assert timed, (width, lines)
        assert counted, (width, lines)
        assert "done" in lines
    assert any("mAP@0.5 41.20 %" in line for line in timed), "there is space for details in 120 columns"


_CELLS = st.text("abcdefghij_-γ", min_size=1, max_size=60)


@given(
    st.lists(st.tuples(_CELLS, _CELLS, *[st.integers(0, 10**12)] * 9), min_size=1, max_size=4),
    st.integers(40, 160),
)
def test_tables_fit_and_leave_nothing_out(rows: list[tuple[object, ...]], width: int) -> None:
    head = ["name", "how it was made", *(f"figure {number}" for number in range(9))]
    lines = list(table_lines(head, rows, 2, width))
    assert max(map(len, lines)) <= width
    letters = re.sub(r"\s", "", "".join(lines))
    for row in rows:
        for cell in row[2:]:
            assert str(cell) in letters
        for text in map(str, row[:2]):
            assert len(text) > 30 or text in letters or all(letter in letters for letter in text)


def test_a_table_that_fits_is_left_alone() -> None:
    assert list(table_lines(("name", "MACs"), [("a b", "1.2 G"), ("c", "3")], 1, 80)) == [
        "name   MACs",
        "----  -----",
        "a b   1.2 G",
        "c         3",
    ]


@pytest.mark.parametrize("name", ["yolov4", "yolov3-spp", "mobilenet-yolov3-voc", "yolov2-tiny"])
def test_networks_in_80_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("info", "groups"):
        assert main([command, f"builtin:{name}"]) == 0
        assert _check_tables(capsys.readouterr().out)
    assert main(["info", f"builtin:{name}"]) == 0
    head, _, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert head.split() == ["no.", "kind", "detail", "reads", "output", "params", "MACs"]
    assert [int(row.split()[0]) for row in rows] == list(range(len(rows))), "no row goes over two lines"


@pytest.mark.slow
def test_every_table_fits_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names as long as those of real projects, and every command that prints a table."""
    place = tmp_path / "detector-of-the-second-warehouse_spring-2024"
    place.mkdir()
    stem = "yolov4-tiny-3l-custom-warehouse-2024-03-17_best_of_three_seeds"
    cfg, weights = place / f"{stem}.cfg", place / f"{stem}.weights"
    cfg.write_text((folder("cfg") / "scenes.cfg").read_text())
    weights.write_bytes((folder("weights") / "scenes.weights").read_bytes())
    names = place / "long.names"
    names.write_text("\n".join(f"a class with quite a long name, number {number} of six" for number in range(6)))
    data = write_scenes(place / "scenes", 8, 8)
    data.write_text(data.read_text().replace(f"{data.parent}/scenes.names", str(names)))
    slim = place / f"pruned-{stem}"
    pair, cut = [str(cfg), str(weights)], [str(slim / cfg.name), str(slim / weights.name)]
    valid = str(place / "scenes" / "valid")
    tables = 0
    for command in (
        ["info", *pair, "--strict"],
        ["prune", *pair, "--ratio", "0.1", "--images", valid, "--data", str(data), "-o", str(slim)],
        ["info", *pair, "--against", cut[0]],
        ["verify", *pair, *cut],
        ["eval", *cut, "--data", str(data)],
        ["bench", *cut, "--against", *pair, "--runs", "2"],
        ["check", "--data", str(data), "--cfg", str(cfg)],
        ["export", *cut, "-o", str(place / "x.onnx"), "--data", str(data), "--fp16"],
        ["kit", *cut, "--target", "orin", "--names", str(names), "-o", str(place / "kit")],
        ["cliff", *pair, "--data", str(data), "--ratios", "0.1", "-o", str(place / "cliff")],
        ["compare", *pair, "--data", str(data), "--methods", "slimming,group", "--budgets", "0.9", "--recoveries",
         "none,lsq", "--images", valid, "-o", str(place / "compare")],
        ["compress", *pair, "--images", valid, "--target-macs", "0.9", "-o", str(place / "run")],
        ["report", str(place / "run"), "--runs", "1", "--overwrite"],
    ):  # fmt: skip
        capsys.readouterr()
        assert main(command) == 0, command
        tables += _check_tables(capsys.readouterr().out)
    assert tables >= 12


def _check_tables(output: str) -> int:
    """Checks the lines around the rule of dashes of every table, and returns how many tables there are."""
    lines = output.splitlines()
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r"-+(  -+)+", line)]
    for number in rules:
        wide = len(lines[number])
        assert wide <= 80, lines[number]
        assert len(lines[number - 1]) <= wide
        assert len(lines[number + 1]) <= wide, lines[number + 1]
    return len(rules)


def test_parts_are_counted_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.1, 10.0, 30.0, 30.0, 50.0])  # the first part is done already, the others take 20 s
    monkeypatch.setattr("darkprune.progress.time.monotonic", lambda: next(clock))
    events: list[ProgressEvent] = []
    parts = {"ratio 0.1": 0.1, "ratio 0.2": 0.2, "ratio 0.3": 0.3}
    with reporting(events.append):
        assert list(announced(parts)) == [0.1, 0.2, 0.3]
    assert [event.message for event in events] == [
        "ratio 0.1: 1 of 3", "ratio 0.2: 2 of 3", "ratio 0.3: 3 of 3, 20 s left"
    ]  # fmt: skip
