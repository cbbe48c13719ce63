"""What a run has come to: one row per network, and what the user should know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from darkprune.compression.defaults import FEWEST_UNLABELLED
from darkprune.compression.stages import Compression, Pair
from darkprune.graph.graph import read_graph
from darkprune.graph.stats import totals
from darkprune.runs.record_file import RecordFile

#: measured with yolo-fastest-1.1-xl on COCO; see docs/RESULTS.md
WITHOUT_IMAGES = (
    "there are no images: drawn scenes stand in for them, nothing is trained, and nothing is measured. On one detector "
    "of COCO that cost 4 of 39 points of mAP at 10 % fewer operations, 10 at 20 %; with --images DIR, some hundred "
    "unlabelled ones, half of that, and the loss can be seen"
)

MARGIN = 0.005  #: of mAP or output distance by which an earlier network must be better: less may be chance

WITHOUT_TORCH = (
    "torch is not installed, so that only the weights say what can go, and nothing is repaired or measured: expect to "
    "lose nearly everything unless the checkpoint was trained sparsely (pip install 'darkprune[train]' helps)"
)


def advice_for(plan: Compression) -> list[str]:
    """Says what to expect, before anything is done."""
    given, found = plan.given, []
    if given.drawn:
        found.append(WITHOUT_IMAGES)
    elif not given.torch:
        found.append(WITHOUT_TORCH)
    elif not given.detector and given.train is None:
        found.append("the network has no detection head: only its weights say what can go, and nothing is measured")
    elif given.train is None and not given.drawn and given.valid is None:
        found.append("without labels what is measured is the distance of the outputs (0: the same, 1: nothing said)")
    distilled = any(stage.name == "distill" for stage in plan.stages) or "distill" in plan.wish.skip
    if given.train is None and given.learn is not None and not given.learns_enough and not distilled:
        found.append(
            f"{given.learn[1]} images are too few to learn from without labels ({FEWEST_UNLABELLED} are asked for): no "
            "distillation; a setting for it switches it on (--set distill.epochs=40)"
        )
    if given.seen:
        found.append("mAP is measured on the images that are trained on (--valid F gives others)")
    return found


def rows_of(plan: Compression, manifest: RecordFile) -> list[dict[str, Any]]:
    """Returns one row per network: its figures, the seconds that its stage took, and whether it is the result."""
    found = []
    best = best_of(plan, manifest)
    for pair in plan.networks:
        total = totals(read_graph(pair.cfg))
        figures = _figures(manifest, pair)
        made = manifest.records.get(pair.made_by)
        itself = pair is plan.original and plan.given.valid is None and plan.given.held_out is not None
        found.append(
            {
                "network": pair.name,
                "map50": figures.get("map50"),
                "distance": 0.0 if itself else figures.get("distance"),
                "params": total.params,
                "macs": total.macs,
                "bytes": pair.weights.stat().st_size,
                "seconds": round(made.seconds, 1) if made is not None else None,
                "result": pair is best,
            }
        )
    control = manifest.records.get("evaluate: control")
    if control is not None and control.done and control.result.get("map50") is not None:
        found.append({**found[0], **control.result, "distance": None, "seconds": None, "result": False})
    return found


def best_of(plan: Compression, manifest: RecordFile) -> Pair:
    """Returns the network that is the result: the last one, unless an earlier one that is as slim is better."""
    best = plan.current
    for pair in reversed(plan.candidates()):
        if _loss(manifest, best) - _loss(manifest, pair) > MARGIN:
            best = pair
    return best


def _loss(manifest: RecordFile, pair: Pair) -> float:
    """Returns 1 − mAP or the output distance; infinite for what was not measured, as nothing is to be said of it."""
    figures = _figures(manifest, pair)
    if figures.get("map50") is not None:
        return 1 - float(figures["map50"])
    return float(figures["distance"]) if figures.get("distance") is not None else math.inf


def _figures(manifest: RecordFile, pair: Pair) -> Mapping[str, Any]:
    entry = manifest.records.get(f"evaluate: {pair.name}")
    return entry.result if entry is not None and entry.done else {}


def verdict_on(rows: list[dict[str, Any]]) -> list[str]:
    """Says so where a stage has done harm, or the unpruned network at a smaller input is better than the result."""
    return [*_harm(rows), *_beaten(rows)]


def _harm(rows: list[dict[str, Any]]) -> list[str]:
    """Says which stages were of no use."""
    result = next(number for number, row in enumerate(rows) if row["result"])
    later = [row for row in rows[result + 1 :] if not row["network"].startswith("original at")]
    if not later:
        return []
    return [
        f"{later[-1]['network']} is worse ({_quality(later[-1])}) than {rows[result]['network']} "
        f"({_quality(rows[result])}), which is taken as the result: more images or longer training "
        f"(--set distill.epochs=…) may help; --skip distill saves the time"
    ]


def _quality(row: dict[str, Any]) -> str:
    if row["map50"] is not None:
        return f"{100 * row['map50']:.1f} % mAP"
    return f"output distance {row['distance']:.3f}"


def _beaten(rows: list[dict[str, Any]]) -> list[str]:
    control = rows[-1]
    if not control["network"].startswith("original at") or len(rows) < 3:
        return []
    result = next(row for row in rows if row["result"])
    if result["map50"] is None or result["map50"] > control["map50"]:
        return []
    return [
        f"the {control['network']} has {100 * control['map50']:.1f} % mAP at {control['macs'] / 1e9:.3f} G "
        f"multiply-adds, the result {100 * result['map50']:.1f} % at {result['macs'] / 1e9:.3f} G: "
        "take the smaller input, train for longer (--set distill.epochs=…), or ask for less"
    ]
