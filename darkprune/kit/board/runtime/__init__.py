"""Builds and runs a TensorRT engine and reads detections from it.

This folder is used twice: by darkprune itself, and copied as it is into a kit for a board. So it keeps to Python 3.6
and to what JetPack ships: tensorrt, numpy, cv2 and the standard library.
"""

from typing import Any

TensorRT = Any  # the `tensorrt` module, and objects of its classes, which have no types


MOST_CHARACTERS = 1000  # of a message


def one_line(text: str) -> str:
    """Returns text of any file as a terminal may show it: one line without control characters, not too long."""
    shown = "".join(c if c.isprintable() else " " if c in "\n\t" else "?" for c in text[:MOST_CHARACTERS])
    return shown[:-3] + "..." if len(text) > MOST_CHARACTERS else shown


class RuntimeFailure(Exception):
    """An expected failure; `str(error)` is one line that says what is wrong and what to do, whatever a file holds."""

    def __str__(self) -> str:
        return one_line(super().__str__())
