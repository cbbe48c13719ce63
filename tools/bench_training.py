"""Measures training: images per second, how long the network waits for data, and evaluation against bare forward time.

    python tools/bench_training.py [CFG] [--data F] [--steps N] [--batch N] [--workers N] [--device D] [--json]

Without data, scenes are drawn. Aims (issue 3 §9): waiting below 10 % of the time, evaluation at most 1.2 times as long
as the forward passes alone. Look at the machine's load first: other work shows up in every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from darkprune.data import read_dataset
from darkprune.data.loading import load_batches
from darkprune.data.scenes import write_scenes
from darkprune.evaluation.detector import Detector
from darkprune.evaluation.evaluate import evaluate_detector
from darkprune.evaluation.of_graph import input_shape
from darkprune.graph.graph import Graph, read_graph
from darkprune.network import Network
from darkprune.network.loading import run_of
from darkprune.training.data.run_data import open_data
from darkprune.training.loop.checkpoint import RunFolder
from darkprune.training.loop.objective import DetectionObjective
from darkprune.training.loop.start import Start, choose_device, open_network
from darkprune.training.loop.step import Stepper
from darkprune.training.recipe.recipe import read_recipe
from darkprune.training.run import make_trainer
from darkprune.training.settings import RunSettings
from darkprune.zoo import resolve

WARM_UP = 3  #: steps that are not counted: workers start, memory is allocated


def bench_steps(graph: Graph, args: argparse.Namespace, folder: Path, data: str) -> tuple[dict[str, float], Network]:
    """Trains some steps."""
    device = choose_device(args.device)
    settings = RunSettings(
        device=args.device, workers=args.workers, iterations=args.steps + WARM_UP, batch=args.batch,
        subdivisions=args.subdivisions, save_every=10**9, keep_every=10**9, eval_every=10**9, no_tensorboard=True,
    )  # fmt: skip
    found = open_data(graph, data, settings)
    recipe = read_recipe(graph, len(found.images), settings, cuda=device.type == "cuda")
    network = open_network(graph, Start(), device)
    stepper = Stepper(network=network, objective=DetectionObjective(graph), recipe=recipe)
    (folder / "run").mkdir()
    trainer = make_trainer(stepper, found, RunFolder(folder / "run", "bench"), settings, {})
    batches = trainer.loader.start(0)
    trainer.stepper.train_from(1)
    waited, began = 0.0, 0.0
    for step in range(1, trainer.recipe.steps + 1):
        if step == WARM_UP + 1:
            waited, began = 0.0, time.perf_counter()
        waited += trainer.stepper.step(batches, step, lambda: False).waited
    seconds = time.perf_counter() - began
    batches.close()
    return {"images_per_second": args.steps * recipe.batch / seconds, "waiting": waited / seconds}, network


def bench_evaluation(graph: Graph, network: Network, args: argparse.Namespace, data: str) -> dict[str, float]:
    """Evaluates the set, and runs the same images through the network with nothing around it."""
    dataset = read_dataset(data, "valid")
    network.eval()
    run, shape, size = run_of(network), input_shape(graph), 8
    detector = Detector.of(graph, run)
    loaded = [batch.images for batch in load_batches([record.path for record in dataset.images], shape, size)]
    times: dict[str, list[float]] = {"forward": [], "evaluation": []}
    for _ in range(args.repeat):
        began = time.perf_counter()
        for images in loaded:
            run(images)
        times["forward"].append(time.perf_counter() - began)
        began = time.perf_counter()
        evaluate_detector(detector, dataset, coco=False)
        times["evaluation"].append(time.perf_counter() - began)
    best = {name: min(values) for name, values in times.items()}
    return {
        "images": float(len(dataset)),
        "forward_seconds": best["forward"],
        "evaluation_seconds": best["evaluation"],
        "evaluation_over_forward": best["evaluation"] / best["forward"],
    }


def bench_loss(graph: Graph, images: int = 8, objects: int = 30) -> dict[str, float]:
    """Times the loss of a part by itself."""
    from darkprune.network import NetworkOutput
    from darkprune.training.data.batches import Batch
    from darkprune.training.losses import make_truths

    random = np.random.default_rng(0)
    objective = DetectionObjective(graph)
    heads = {
        layer.index: torch.randn(images, layer.output.c, layer.output.h, layer.output.w).requires_grad_()
        for layer in graph.heads
    }
    labels = []
    for _ in range(images):
        rows = random.uniform(0.1, 0.5, (objects, 5)).astype(np.float32)
        rows[:, 0] = 0
        labels.append(rows)
    size = (graph.net.input.h, graph.net.input.w)
    batch = Batch(0, torch.zeros(images, *size, 3, dtype=torch.uint8), make_truths(labels), (), ())
    output = NetworkOutput(heads, {}, next(iter(heads.values())))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        objective.compute(output, batch, 0, None).value.backward()
        times.append(time.perf_counter() - began)
    return {"loss_milliseconds_per_image": 1000 * min(times) / images}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("cfg", nargs="?", default="builtin:scenes")
    parser.add_argument("--data", help="a set with training and validation images; default: drawn scenes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--subdivisions", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    graph = read_graph(resolve(args.cfg))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = args.data or str(write_scenes(folder / "scenes", 128, 64))
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        trained, network = bench_steps(graph, args, folder, data)
        figures: dict[str, Any] = {
            "cfg": args.cfg,
            "size": f"{graph.net.input.w}x{graph.net.input.h}",
            "device": str(next(network.parameters()).device),
            "threads": torch.get_num_threads(),
            "load_before": load,
            **trained,
            **bench_evaluation(graph, network, args, data),
            **bench_loss(graph),
        }
    if args.json:
        json.dump(figures, sys.stdout, indent=1)
        print()
        return 0
    for key, value in figures.items():
        print(f"{key:28} {value:.4g}" if isinstance(value, float) else f"{key:28} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
