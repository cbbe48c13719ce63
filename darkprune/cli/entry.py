"""The entry of the command line: Ctrl-C has one answer also while modules are still being imported."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs a command and returns the exit status."""
    try:
        from darkprune.cli.main import main as run

        status = run()
    except KeyboardInterrupt:
        print("darkprune: interrupted; nothing was left behind", file=sys.stderr)
        status = 130
    exec("")  # CPython 3.11 ends as if by a signal where Ctrl-C hit an earlier `exec`, such as those of dataclasses
    return status
