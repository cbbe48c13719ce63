"""Compares an engine with the ONNX file: its outputs for a fixed input against those that onnxruntime computed."""

import os
from typing import Callable, Dict, Tuple

import numpy as np

from . import RuntimeFailure

REFERENCE = "reference.npz"
_SEED = 0


def reference_input(shape: Tuple[int, ...]) -> np.ndarray:
    """Returns the input that references are computed from: noise in 0..1, float32, the same in every numpy."""
    # RandomState is frozen by numpy's compatibility policy, unlike default_rng; numpy 1.13 has no other
    noise = np.random.RandomState(_SEED).randint(0, 256, shape)
    scaled: np.ndarray = noise.astype(np.float32) / np.float32(255)
    return scaled


def load_reference(folder: str) -> Dict[str, np.ndarray]:
    """Reads the outputs that onnxruntime computed where the kit was made; empty where the kit has none."""
    path = os.path.join(folder, REFERENCE)
    if not os.path.exists(path):
        return {}
    with np.load(path) as arrays:
        return {str(name): arrays["output{}".format(index)] for index, name in enumerate(arrays["names"])}


def tolerance(tf32: bool) -> float:
    """Returns how far an FP32 engine may be off: TF32 (Orin and newer) keeps 10 bits of each factor, FP32 keeps 23."""
    return 1e-2 if tf32 else 1e-3


def deviation(expected: np.ndarray, actual: np.ndarray) -> float:
    """Returns the largest difference over the largest expected magnitude; infinite where a value is not a number."""
    if not np.isfinite(actual).all():
        return float("inf")
    scale = float(np.abs(expected).max()) if expected.size else 0.0
    worst = float(np.abs(expected.astype(np.float64) - actual).max()) if expected.size else 0.0
    return worst / scale if scale else worst


def compare(
    expected: Dict[str, np.ndarray], actual: Dict[str, np.ndarray], say: Callable[[str], None] = print
) -> float:
    """Reports the deviation of each output and returns the largest.

    Raises:
        RuntimeFailure: an output is missing or has another shape.
    """
    worst = 0.0
    for name, wanted in expected.items():
        found = actual.get(name)
        if found is None or found.shape != wanted.shape:
            have = "missing" if found is None else "of shape {}".format(found.shape)
            raise RuntimeFailure("output {}: {}, expected shape {}".format(name, have, wanted.shape))
        value = deviation(wanted, found)
        say("{}: largest deviation {:.1e} of its range".format(name, value))
        worst = max(worst, value)
    return worst
