"""The exceptions that reach a user.

Every expected failure is a `DarkpruneError`: one line that says what is wrong, where (file, line or layer) and
what to do. The command line prints it and exits with 1 (2 for `UsageError`); anything else is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable

MOST_CHARACTERS = 1000  #: of a message


def one_line(text: str, limit: int = MOST_CHARACTERS) -> str:
    """Makes text that may come from anybody's file safe to show: one line, no control characters, bounded.

    Args:
        text: a message, a name, a path.
        limit: characters of the result.
    """
    shown = "".join(c if c.isprintable() else " " if c in "\n\t" else "?" for c in text[:limit])
    return f"{shown}…" if len(text) > limit else shown


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Returns which of the known words may have been meant, for a message; None where none is close."""
    from difflib import get_close_matches  # nearly no run needs it

    return next(iter(get_close_matches(word, known, 1)), None)


class DarkpruneError(Exception):
    """Base of all errors caused by input; `str(error)` is one line, whatever the input put into it."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(DarkpruneError):
    """The command line asks for something that makes no sense (exit status 2)."""


class CfgError(DarkpruneError):
    """A .cfg file cannot be read as a network."""


class WeightsError(DarkpruneError):
    """A .weights file does not fit its .cfg, or is not a weights file."""


class GraphError(DarkpruneError):
    """The layers of a network do not fit together."""


class PlanError(DarkpruneError):
    """A pruning plan cannot be made, read or replayed."""


class OutputError(DarkpruneError):
    """A result cannot be written where it was asked for."""


class DataError(DarkpruneError):
    """Images, labels or data files cannot be used."""


class RunnerError(DarkpruneError):
    """No program that can run the network is at hand, or it refused the network."""


class ExportError(DarkpruneError):
    """A network cannot be converted for the chosen target."""


class TrainingError(DarkpruneError):
    """Training cannot start or go on."""
