"""Reads `model.json`, the description of the network that the scripts of a kit go by.

Its fields are those of `KitDescription` in darkprune (`export/kit/schema.py`).
"""

import json
import os
from typing import Any, Dict

from . import RuntimeFailure
from .files import read_bytes, sha256_of

FORMAT = 1
NAME = "model.json"


def load_model(folder: str) -> Dict[str, Any]:
    """The description in a kit's folder.

    Raises:
        RuntimeFailure: there is none, or another version of darkprune wrote it.
    """
    path = os.path.join(folder, NAME)
    try:
        model = json.loads(read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RuntimeFailure("{}: not JSON ({}), copy the kit again".format(path, error)) from None
    if not isinstance(model, dict) or model.get("format") != FORMAT:
        raise RuntimeFailure("{}: not of format {}, copy the whole kit again".format(path, FORMAT))
    return model


def onnx_path(folder: str, model: Dict[str, Any]) -> str:
    """The kit's ONNX file, after a look whether it is the one that the description means.

    Raises:
        RuntimeFailure: it is missing or was changed.
    """
    path = os.path.join(folder, model["onnx"])
    if sha256_of(path) != model["onnx_sha256"]:
        raise RuntimeFailure("{}: not the file that {} describes, copy the kit again".format(path, NAME))
    return path
