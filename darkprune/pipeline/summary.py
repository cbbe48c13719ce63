"""What a run has come to: one row per network, and what the user should know."""

from __future__ import annotations

from typing import Any

from darkprune.graph.graph import read_graph
from darkprune.graph.stats import totals
from darkprune.pipeline.compression import Compression
from darkprune.pipeline.manifest import Manifest

#: measured with yolo-fastest-1.1-xl on COCO; see docs/RESULTS.md
WITHOUT_IMAGES = (
    "there are no images: drawn scenes stand in for them, nothing is trained, and nothing is measured. On one detector "
    "of COCO that cost 4 of 39 points of mAP at 10 % fewer operations, 10 at 20 %; with --images DIR, some hundred "
    "unlabelled ones, half of that, and the loss can be seen"
)

HARM = 0.005  #: of mAP that a stage may cost without a word: what differs by less may be chance

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
    if given.seen:
        found.append("mAP is measured on the images that are trained on (--valid F gives others)")
    return found


def rows_of(plan: Compression, manifest: Manifest) -> list[dict[str, Any]]:
    """Returns one row per network: its figures, and the seconds that its stage took."""
    found = []
    for pair in plan.networks:
        total = totals(read_graph(pair.cfg))
        entry = manifest.entries.get(f"evaluate: {pair.name}")
        figures = entry.result if entry is not None and entry.done else {}
        made = manifest.entries.get(pair.made_by)
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
            }
        )
    control = manifest.entries.get("evaluate: control")
    if control is not None and control.done and control.result.get("map50") is not None:
        found.append({**found[0], **control.result, "distance": None, "seconds": None})
    return found


def verdict_on(rows: list[dict[str, Any]]) -> list[str]:
    """Says so where a stage has done harm, or the unpruned network at a smaller input is better than the result."""
    return [*_harm(rows), *_beaten(rows)]


def _harm(rows: list[dict[str, Any]]) -> list[str]:
    """Compares the result with what earlier stages had, as slim as it is."""
    slim = [row for row in rows if row["macs"] < rows[0]["macs"] and not row["network"].startswith("original at")]
    known = [row for row in slim if row["map50"] is not None]
    if len(known) < 2 or known[-1] is not slim[-1]:
        return []
    best, result = max(known, key=lambda row: float(row["map50"])), known[-1]
    if best["map50"] - result["map50"] < HARM:
        return []
    return [
        f"the result has {100 * result['map50']:.1f} % mAP, what was there before its training "
        f"({best['network']}) {100 * best['map50']:.1f} %: train for longer (--set distill.epochs=…), or --skip distill"
    ]


def _beaten(rows: list[dict[str, Any]]) -> list[str]:
    control = rows[-1]
    if not control["network"].startswith("original at") or len(rows) < 3:
        return []
    result = rows[-2]
    if result["map50"] is None or result["map50"] > control["map50"]:
        return []
    return [
        f"the {control['network']} has {100 * control['map50']:.1f} % mAP at {control['macs'] / 1e9:.3f} G "
        f"multiply-adds, the result {100 * result['map50']:.1f} % at {result['macs'] / 1e9:.3f} G: "
        "take the smaller input, train for longer (--set distill.epochs=…), or ask for less"
    ]
