"""Paired bootstrap of mAP over test images: which differences between pairs does a test set resolve?

    python tools/compare_map.py --data F [--split test] [--samples 2000] NAME=CFG,WEIGHTS[;WEIGHTS…] NAME=…

Weights separated by `;` are runs of one method with other seeds: their figures are averaged in every sample. Prints a
table with mAP@0.5 (mean and spread over seeds) and, against the first method, the difference with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from darkprune.data import read_dataset
from darkprune.evaluation.detector import Detector, find_objects
from darkprune.evaluation.evaluate import truths_of
from darkprune.evaluation.metrics.average_precision import average_precisions
from darkprune.evaluation.metrics.matching import Truths, match
from darkprune.evaluation.nms import Detections
from darkprune.evaluation.of_graph import heads_of
from darkprune.graph.graph import read_graph
from darkprune.runners.base import FAST_FIRST, load_with_any
from darkprune.zoo import resolve


def take(numbers: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns which rows belong to the chosen images, with repeats, and their new image numbers."""
    order = np.argsort(numbers, kind="stable")
    edges = np.searchsorted(numbers[order], np.arange(chosen.max() + 2))
    rows = [order[edges[image] : edges[image + 1]] for image in chosen]
    renumbered = np.repeat(np.arange(len(chosen)), [len(part) for part in rows])
    return np.concatenate(rows), renumbered


def mean_ap(found: Detections, truths: Truths, classes: int) -> float:
    return float(average_precisions(found, truths, match(found, truths), classes).mean())


def sampled(found: Detections, truths: Truths, classes: int, chosen: np.ndarray) -> float:
    rows, image = take(found.image, chosen)
    some = Detections(image, found.boxes[rows], found.classes[rows], found.scores[rows])
    rows, image = take(truths.image, chosen)
    return mean_ap(some, Truths(image, truths.boxes[rows], truths.classes[rows], truths.difficult[rows]), classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--names")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("method", nargs="+", metavar="NAME=CFG,WEIGHTS[;WEIGHTS…]")
    args = parser.parse_args()
    dataset = read_dataset(args.data, args.split, args.names)
    paths = [record.path for record in dataset.images]
    random = np.random.default_rng(0)
    draws = random.integers(0, len(paths), (args.samples, len(paths)))
    rows, reference = [], None
    for method in args.method:
        name, _, pair = method.partition("=")
        cfg, _, weights = pair.partition(",")
        graph = read_graph(resolve(cfg))
        heads = heads_of(graph)
        truths = truths_of(dataset, heads[-1].classes)
        whole, samples = [], []
        for file in weights.split(";"):
            _, network = load_with_any(graph, Path(file), taps=False, order=FAST_FIRST)
            found = find_objects(Detector.of(graph, network.head_maps), paths).detections
            whole.append(mean_ap(found, truths, heads[-1].classes))
            samples.append([sampled(found, truths, heads[-1].classes, chosen) for chosen in draws])
        means = np.mean(samples, axis=0)
        reference = means if reference is None else reference
        low, high = np.percentile(means - reference, [2.5, 97.5])
        rows.append({"name": name, "map50": float(np.mean(whole)), "seeds": [round(v, 4) for v in whole],
                     "against_first": [round(float(low), 4), round(float(high), 4)]})  # fmt: skip
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{dataset.source} {args.split}: {len(paths)} images, {args.samples} samples")
    for row in rows:
        seeds = " ".join(f"{100 * value:.1f}" for value in row["seeds"])
        low, high = row["against_first"]
        print(f"{row['name']:<16} mAP@0.5 {100 * row['map50']:5.1f} %  seeds {seeds:<18} "
              f"against {rows[0]['name']}: {100 * low:+.1f} to {100 * high:+.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
