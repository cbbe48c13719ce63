"""From a network's output to figures: decoding of heads, suppression, matching, mAP."""

from darkprune.evaluation.evaluate import Found, Runner, detect, evaluate
from darkprune.evaluation.heads import Candidates, Head, decode
from darkprune.evaluation.nms import Detections, suppress
from darkprune.evaluation.results import Evaluation

__all__ = [
    "Candidates",
    "Detections",
    "Evaluation",
    "Found",
    "Head",
    "Runner",
    "decode",
    "detect",
    "evaluate",
    "suppress",
]
