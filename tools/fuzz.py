"""Gives every reader damaged files: each must be read, or refused in one short line, soon and in bounded memory.

    python tools/fuzz.py --seconds 120                          # every reader, a share of the time each
    python tools/fuzz.py --readers cfg plan --seconds 3600 --seed 7 -o escaped/
    python tools/fuzz.py --replay escaped/*                     # files named READER-KIND-NUMBER

The seed and the number of an input decide it, so a run of the same seed begins with the same inputs. What escapes is
written to the folder of -o under the reader's name and the kind of escape: the name of an exception, HANG, MEMORY,
CONTROL (control characters in a message), MULTILINE or LONG. The exit status is 1 then.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

from fuzz_readers import READERS as FILES
from fuzz_readers import Reader
from fuzz_runs import READERS as RUNS

from darkprune.errors import MOST_CHARACTERS, DarkpruneError

SECONDS, MEMORY = 10, 1 << 30  #: what one input may take: processor time, bytes
READERS = {**FILES, **RUNS}
WAIT = 300  #: seconds that one input may take where the machine is busy, or something waits for ever


@dataclass(frozen=True)
class Inputs:
    """What a reader is given.

    Attributes:
        reader: the reader.
        input_of: returns the input of a number.
        ends: time at which no further one is begun, by `time.monotonic`.
        count: how many there are.
    """

    reader: Reader
    input_of: Callable[[int], bytes]
    ends: float
    count: float = float("inf")

    def has(self, number: int) -> bool:
        """Tells whether an input is still to be tried."""
        return number < self.count and time.monotonic() < self.ends


def escape_of(reader: Reader, data: bytes, folder: Path) -> str:
    """Gives a reader an input; returns the kind of escape, or nothing."""
    path = folder / reader.file
    path.write_bytes(data)
    output = io.StringIO()
    try:
        with redirect_stdout(output), redirect_stderr(output):
            shown = list(reader.read(path) or ())
    except DarkpruneError as error:
        shown = [str(error)]
    except MemoryError:
        return "MEMORY"
    except Exception as error:
        return type(error).__name__
    for text in (*shown, *output.getvalue().splitlines()):
        if "\n" in text:
            return "MULTILINE"
        if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text):
            return "CONTROL"
        if len(text) > MOST_CHARACTERS + 1:
            return "LONG"
    return ""


def run(inputs: Inputs, found: Callable[[str, bytes], None]) -> int:
    """Gives a reader its inputs, in processes of their own: one that hangs or dies is followed by another.

    Returns:
        How many there were.
    """
    number = 0
    while inputs.has(number):
        number = _watch(inputs, number, found)
    return number


def _watch(inputs: Inputs, first: int, found: Callable[[str, bytes], None]) -> int:
    """Watches a process until it ends, hangs or dies; returns the number of the next input."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        _work(inputs, first, sending)
    os.close(sending)
    number, began = first - 1, time.monotonic()
    with os.fdopen(receiving, "rb") as reports:
        os.set_blocking(receiving, False)
        while True:
            line = reports.readline()
            if line:
                words = line.decode().split()
                number, began = int(words[0]), time.monotonic()
                for kind in words[1:]:
                    found(kind, inputs.input_of(number))
                continue
            done, status = os.waitpid(child, os.WNOHANG)
            late = not done and time.monotonic() - began > WAIT
            if late:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                found("HANG", inputs.input_of(number))
            elif done and os.waitstatus_to_exitcode(status) < 0:
                name = signal.Signals(-os.waitstatus_to_exitcode(status)).name
                found("HANG" if name == "SIGPROF" else name, inputs.input_of(number))
            if late or done:
                return number + 1
            time.sleep(0.01)


def _work(inputs: Inputs, first: int, reports: int) -> None:
    """Takes inputs one after another; says which it begins with, and what escaped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libpng speaks there by itself
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    number = first
    with suppress(BaseException):
        while inputs.has(number):
            os.write(reports, b"%d\n" % number)
            with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                kind = escape_of(inputs.reader, inputs.input_of(number), Path(name))
            if kind:
                os.write(reports, f"{number} {kind}\n".encode())
            number += 1
    os._exit(0)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), help="which (all)")
    parser.add_argument("--seconds", type=float, default=120, help="for all of them together (120)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (0)")
    parser.add_argument("-o", "--output", type=Path, help="folder for inputs that escape")
    parser.add_argument("--replay", nargs="+", type=Path, metavar="FILE", help="files named READER-…, once each")
    args = parser.parse_args()
    escaped: list[str] = []

    def keep(reader: str, kind: str, data: bytes) -> None:
        name = f"{reader}-{kind}-{hashlib.sha256(data).hexdigest()[:8]}"
        escaped.append(name)
        print(name, flush=True)
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            (args.output / name).write_bytes(data)

    total = 0
    for name in args.readers:
        files = _named_after(name, args.replay) if args.replay else []
        if args.replay and not files:
            continue
        reader = READERS[name]()
        if args.replay:
            inputs = Inputs(reader, lambda number, files=files: files[number].read_bytes(), float("inf"), len(files))
        else:
            ends = time.monotonic() + args.seconds / len(args.readers)
            inputs = Inputs(reader, lambda number, reader=reader: reader.input(args.seed, number), ends)
        count = run(inputs, lambda kind, data, name=name: keep(name, kind, data))
        total += count
        print(f"{name}: {count} inputs", file=sys.stderr)
    print(f"{total} inputs, {len(escaped)} escaped", file=sys.stderr)
    return int(bool(escaped))


def _named_after(reader: str, paths: Sequence[Path]) -> list[Path]:
    """Returns the files of a reader; of two readers of which one's name begins with the other's, the longer counts."""

    def of(path: Path) -> str:
        return max((name for name in READERS if path.name.startswith(f"{name}-")), key=len, default="")

    return [path for path in paths if of(path) == reader]


if __name__ == "__main__":
    sys.exit(main())
