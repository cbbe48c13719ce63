"""The commands, by the job that they belong to: where each stands, what it does, how it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        module: in `darkprune.cli`, in the folder of its job; it has `configure(parser)` and `run(args)`.
        summary: one line for `darkprune --help`.
        examples: command lines for its own `--help`, without the leading `darkprune NAME`.
    """

    module: str
    summary: str
    examples: tuple[str, ...]


#: job -> its commands, in the order of a user's work
JOBS: Mapping[str, Mapping[str, Command]] = {
    "start here": {
        "demo": Command(
            "compression.demo", "the main job on drawn images: measure, prune, verify, distil", ("", "--full -o demo/")
        ),
        "compress": Command(
            "compression.compress",
            "from a checkpoint to a smaller one that is ready to use",
            (
                "yolov4.cfg yolov4.weights --data obj.data --target-macs 0.5 -o run/",
                "yolov4.cfg yolov4.weights --images photos/ --target-macs 0.8 -o run/ --dry-run",
            ),
        ),
    },
    "1. compress a checkpoint, step by step": {
        "info": Command(
            "compression.info",
            "a network's layers, shapes, parameters, operations, bytes",
            ("yolov4.cfg yolov4.weights", "yolov4.cfg --html yolov4.html"),
        ),
        "groups": Command(
            "inspection.groups", "layer groups, coupled layers, channels that stay and why", ("yolov4.cfg",)
        ),
        "cliff": Command(
            "compression.cliff",
            "accuracy over the ratio, beside the network at smaller inputs",
            ("yolov4.cfg yolov4.weights --data obj.data -o cliff/",),
        ),
        "prune": Command(
            "compression.prune",
            "remove channels",
            (
                "yolov4.cfg yolov4.weights --target-macs 0.8 -o slim/ --images photos/ --recover lsq",
                "sparse/yolov4.cfg sparse/yolov4_final.weights --ratio 0.4 -o slim/",
            ),
        ),
        "factorize": Command(
            "compression.factorize",
            "write convolutions as products of smaller ones (low rank)",
            ("yolov3-tiny.cfg yolov3-tiny.weights --images photos/ --target-macs 0.8 --recover lsq -o slim/",),
        ),
        "compare": Command(
            "compression.compare",
            "pruning methods, budgets and recoveries side by side",
            ("yolov4.cfg yolov4.weights --data obj.data --methods slimming,group --budgets 0.8,0.6 -o compare/",),
        ),
        "train": Command(
            "compression.train",
            "train a network, sparsely where asked for",
            (
                "yolov4.cfg yolov4.weights --data obj.data -o sparse/ --sparsity dynamic",
                "slim/yolov4.cfg slim/yolov4.weights --data obj.data -o tuned/ --epochs 30 --adam --lr 0.001",
            ),
        ),
        "distill": Command(
            "compression.distill",
            "train a pruned network to compute what the original computes",
            ("yolov4.cfg yolov4.weights slim/yolov4.cfg slim/yolov4.weights --data obj.data -o distilled/",),
        ),
        "check": Command(
            "compression.check", "list what is wrong with a data set", ("--data obj.data --cfg yolov4.cfg",)
        ),
        "init": Command("compression.init", "write fresh weights for a cfg", ("builtin:yolov4 -o yolov4.weights",)),
    },
    "2. look at the result, and use it in darknet": {
        "verify": Command(
            "inspection.verify",
            "check a pruned network against its original",
            ("yolov4.cfg yolov4.weights slim/yolov4.cfg slim/yolov4.weights", "slim/", "run/"),
        ),
        "detect": Command(
            "inspection.detect",
            "find objects in images, folders and videos",
            ("slim/yolov4.cfg slim/yolov4.weights photos/ --names coco.names -o boxes/",),
        ),
        "eval": Command(
            "inspection.eval",
            "measure mAP on labelled images",
            ("slim/yolov4.cfg slim/yolov4.weights --data obj.data",),
        ),
        "bench": Command(
            "inspection.bench",
            "time a network, or two in turn",
            ("slim/yolov4.cfg slim/yolov4.weights --against yolov4.cfg yolov4.weights",),
        ),
        "partial": Command(
            "inspection.partial",
            "write the first layers alone, to train another network from",
            ("yolov4.cfg yolov4.weights --layers 137 -o yolov4.conv.137",),
        ),
        "report": Command(
            "inspection.report", "one HTML page about a run: tables, diagrams, images", ("run/ --data obj.data",)
        ),
    },
    "3. convert it for a Jetson or another machine": {
        "kit": Command(
            "conversion.kit",
            "a folder to copy to a Jetson: network, scripts, configuration",
            ("slim/yolov4.cfg slim/yolov4.weights --target jetson-nano --names coco.names -o kit/",),
        ),
        "export": Command(
            "conversion.export",
            "write an ONNX file, checked against the pair",
            ("slim/yolov4.cfg slim/yolov4.weights --target orin -o yolov4.onnx",),
        ),
        "engine": Command(
            "conversion.engine",
            "build a TensorRT engine of an ONNX file on this machine",
            ("yolov4.onnx -o yolov4.engine --fp16",),
        ),
    },
    "other": {
        "completion": Command("completion", "print a script with which bash, zsh or fish complete commands", ("bash",))
    },
}
COMMANDS: Mapping[str, Command] = {name: command for job in JOBS.values() for name, command in job.items()}
