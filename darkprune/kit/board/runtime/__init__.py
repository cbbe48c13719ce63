"""Builds and runs a TensorRT engine and reads detections from it.

This folder is used twice: by darkprune itself, and copied as it is into a kit for a board. So it keeps to Python 3.6
and to what JetPack ships: tensorrt, numpy, cv2 and the standard library.
"""

from typing import Any

TensorRT = Any  # the `tensorrt` module, and objects of its classes, which have no types


class RuntimeFailure(Exception):
    """An expected failure; `str(error)` is one line that says what is wrong and what to do."""
