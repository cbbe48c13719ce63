"""Builds and runs a TensorRT engine and reads detections from it.

This folder is used twice: by darkprune itself, and copied as it is into a kit for a board. So it keeps to Python 3.6
and to what JetPack ships: tensorrt, numpy, cv2 and the standard library.
"""


class RuntimeFailure(Exception):
    """An expected failure; `str(error)` is one line that says what is wrong and what to do."""
