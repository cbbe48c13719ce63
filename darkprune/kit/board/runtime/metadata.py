"""The description beside an engine, `<engine>.json`: which TensorRT and GPU it belongs to, and what it was made from.

An engine runs only on the TensorRT version and the kind of GPU that built it. TensorRT's own message about that is
hard to understand, so the file is asked first.
"""

import json
import os
from typing import Dict, Optional

from . import RuntimeFailure
from .files import read_json, sha256_of, write_atomic

_FORMAT = 1


def path_for(engine_path: str) -> str:
    """Returns the path of the description beside an engine."""
    return engine_path + ".json"


def save(engine_path: str, engine: bytes, facts: Dict[str, object]) -> Dict[str, object]:
    """Writes an engine and the description beside it; returns what was written beside it.

    Args:
        engine_path: where to.
        engine: the serialised engine, a buffer.
        facts: JSON; must have `tensorrt`, `gpu` and `capability`; `portable` where it runs on other GPUs, too.
    """
    write_atomic(engine_path, engine)
    whole: Dict[str, object] = {"format": _FORMAT}
    whole.update(facts)
    whole["engine_sha256"] = sha256_of(engine_path)
    # Written last: a stale one names another hash and is refused.
    write_atomic(path_for(engine_path), json.dumps(whole, indent=1).encode("utf-8"))
    return whole


def load(engine_path: str) -> Optional[Dict[str, object]]:
    """Reads the description beside an engine; None where there is none (an engine of trtexec, say).

    Raises:
        RuntimeFailure: it is there and cannot be understood.
    """
    path = path_for(engine_path)
    if not os.path.exists(path):
        return None
    facts = read_json(path, "build the engine again")
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        raise RuntimeFailure("{}: not the description of an engine, build the engine again".format(path))
    return facts


def refuse_foreign(engine_path: str, version: str, gpu: str, capability: str) -> Optional[Dict[str, object]]:
    """Refuses an engine that was built by another TensorRT or for another GPU.

    Args:
        engine_path: the engine.
        version: `tensorrt.__version__` here.
        gpu: name of the GPU here.
        capability: its compute capability.

    Returns:
        What stands beside it; None when nothing does, then TensorRT itself has to judge.

    Raises:
        RuntimeFailure: it does not belong here.
    """
    facts = load(engine_path)
    if facts is None:
        return None
    made_by = facts.get("tensorrt")
    if made_by != version:
        raise RuntimeFailure(
            "{}: built by TensorRT {}, here is {}: build it again on this machine".format(engine_path, made_by, version)
        )
    if not facts.get("portable") and (facts.get("gpu"), facts.get("capability")) != (gpu, capability):
        raise RuntimeFailure(
            "{}: built for {} ({}), here is {} ({}): build it again on this machine".format(
                engine_path, facts.get("gpu"), facts.get("capability"), gpu, capability
            )
        )
    if facts.get("engine_sha256") != sha256_of(engine_path):
        raise RuntimeFailure(
            "{}: {} describes another engine: build it again".format(engine_path, path_for(engine_path))
        )
    return facts
