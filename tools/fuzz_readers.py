"""The readers that `fuzz.py` tries: for each a good file, and the function that reads it."""

from __future__ import annotations

import io
import json
import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from fuzz_inputs import damaged, random_cfg

from darkprune.darknet.cfg import parse_cfg, read_cfg
from darkprune.darknet.strict import strict_problems
from darkprune.graph.channels import map_channels
from darkprune.graph.fresh import write_fresh
from darkprune.graph.graph import Graph, build_graph, read_graph
from darkprune.graph.groups import find_groups
from darkprune.graph.stats import totals
from darkprune.graph.weights import NetworkWeights, broken_tensors
from darkprune.layers import KINDS

CFG = (
    "[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nbatch_normalize=1\nfilters=16\nsize=3\nstride=2\npad=1\n"
    "activation=leaky\n[convolutional]\nbatch_normalize=1\nfilters=16\nsize=3\npad=1\nactivation=mish\n[shortcut]\nfrom=-2\n"
    "activation=linear\n[convolutional]\nfilters=18\nsize=1\nactivation=linear\n[yolo]\nmask=0,1,2\nclasses=1\nnum=3\n"
    "anchors=10,14, 23,27, 37,58\n"
)


@dataclass(frozen=True)
class Reader:
    """Something that reads a file.

    Attributes:
        name: as findings are named.
        file: name of the file that it reads, in an otherwise empty folder.
        good: files that it reads, to be damaged.
        read: reads the file; returns texts that would be shown.
        draw: draws an input instead of damaging a good one, now and then.
    """

    name: str
    file: str
    good: Sequence[bytes]
    read: Callable[[Path], Iterable[str] | None]
    draw: Callable[[random.Random], bytes] | None = None

    def input(self, seed: int, number: int) -> bytes:
        """Returns the input that a seed and a number decide."""
        draw = random.Random(f"{seed} {self.name} {number}")
        if self.draw is not None and draw.random() < 0.4:
            return self.draw(draw)
        return damaged(draw, self.good)


def _graph() -> Graph:
    return build_graph(parse_cfg(CFG))


def _read_cfg(path: Path) -> Iterable[str]:
    cfg = read_cfg(path)
    assert cfg.encode() == path.read_bytes(), "a cfg is written as it was read"
    graph = read_graph(path)
    map_channels(graph)
    find_groups(graph)
    totals(graph)
    return [*graph.warnings, *(str(problem) for problem in strict_problems(cfg))]


def _read_weights(path: Path) -> Iterable[str]:
    with NetworkWeights(_graph(), path) as weights:
        return broken_tensors(weights)


def _read_plan(path: Path) -> Iterable[str]:
    from darkprune.surgery.plan_file import read_plan

    read_plan(path).classes(map_channels(_graph()))
    return ()


def _read_toml(path: Path) -> Iterable[str]:
    from darkprune.compression.settings import read_settings, settings_from

    settings_from(read_settings(path), {})
    return ()


def _read_data(path: Path) -> Iterable[str]:
    images = path.parent / "images" / "val"
    images.mkdir(parents=True)
    (images / "a.png").write_bytes(PNG)
    (images / "a.txt").write_text("0 0.5 0.5 0.2 0.1\n", encoding="utf-8")
    (path.parent / "n.list").write_text("cat\ndog\n", encoding="utf-8")
    (path.parent / "v.list").write_text(f"{images / 'a.png'}\n", encoding="utf-8")
    return _problems(path)


def _problems(path: Path) -> list[str]:
    from darkprune.data.reading import read_dataset

    dataset = read_dataset(path)
    return [str(problem) for record in dataset.images for problem in record.labels.read().problems]


def _read_labels(path: Path) -> Iterable[str]:
    path.with_suffix(".png").write_bytes(PNG)
    (path.parent / "list.txt").write_text(f"{path.with_suffix('.png')}\n", encoding="utf-8")
    return _problems(path.parent / "list.txt")


def _read_voc(path: Path) -> Iterable[str]:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (path.parent / name).mkdir(parents=True, exist_ok=True)
    (path.parent / "JPEGImages" / "a.png").write_bytes(PNG)
    (path.parent / "ImageSets" / "Main" / "val.txt").write_text("a\n", encoding="utf-8")
    path.replace(path.parent / "Annotations" / "a.xml")
    return _problems(path.parent)


def _read_image(path: Path) -> Iterable[str]:
    from darkprune.data.images import read_image

    read_image(path)
    return ()


def _read_log(path: Path) -> Iterable[str]:
    from darkprune.training.records.log import read_curves

    read_curves(path)
    return ()


def _read_gammas(path: Path) -> Iterable[str]:
    from darkprune.training.sparsity.gammas import read_gammas

    read_gammas(path)
    return ()


def _read_state(path: Path) -> Iterable[str]:
    from darkprune.training.loop.checkpoint import RunFolder

    RunFolder(path.parent, "x").read_state()
    return ()


def _read_onnx(path: Path) -> Iterable[str]:
    from darkprune.onnx.read import facts_of_file

    facts_of_file(path)
    return ()


def _read_kit(path: Path) -> Iterable[str]:
    from darkprune.kit.board.runtime import RuntimeFailure
    from darkprune.kit.board.runtime.model import load_model

    try:
        load_model(str(path.parent))
    except RuntimeFailure as error:
        return [str(error)]
    return ()


def _read_engine(path: Path) -> Iterable[str]:
    from darkprune.kit.board.runtime import RuntimeFailure
    from darkprune.kit.board.runtime.metadata import refuse_foreign

    path.with_suffix("").write_bytes(b"engine")
    try:
        refuse_foreign(str(path.with_suffix("")), "10.3.0", "GPU", "8.7")
    except RuntimeFailure as error:
        return [str(error)]
    return ()


def _read_names(path: Path) -> Iterable[str]:
    from darkprune.data.class_names import read_names

    return [str(problem) for problem in read_names(path)[1]]


def _read_arguments(path: Path) -> Iterable[str]:
    """Takes a file's lines as a command line; nothing but settings is made of it."""
    import darkprune
    from darkprune.cli.flags import read_flags
    from darkprune.cli.main import build_parser

    words = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    kinds = {"prune": "PruneSettings", "train": "TrainSettings", "detect": "DetectSettings", "export": "ExportSettings"}
    if not words or words[0] not in kinds or {"-h", "--help", "--version"} & set(words):
        return ()
    args = build_parser(words[0]).parse_args(words)
    read_flags(getattr(darkprune, kinds[words[0]]), args)
    return ()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def weights_of_cfg() -> bytes:
    file = io.BytesIO()
    write_fresh(_graph(), file, 0, vary=True)
    return file.getvalue()


def _plan() -> bytes:
    from darkprune import Pair, PruneSettings, prune

    with tempfile.TemporaryDirectory() as name:
        cfg, weights = Path(name, "x.cfg"), Path(name, "x.weights")
        cfg.write_text(CFG, encoding="utf-8")
        weights.write_bytes(weights_of_cfg())
        with closing(prune(Pair(cfg, weights), PruneSettings(ratio=0.5, min_channels=1))) as surgery:
            return surgery.plan.dumps().encode()


def _state() -> bytes:
    import torch

    from darkprune.training.loop.checkpoint import FORMAT

    file = io.BytesIO()
    torch.save({"format": FORMAT, "step": 3, "network": {"0.weights": torch.zeros(4, 3)}}, file)
    return file.getvalue()


def _onnx() -> bytes:
    from darkprune import ExportSettings, Pair, export

    with tempfile.TemporaryDirectory() as name:
        cfg, weights, out = Path(name, "x.cfg"), Path(name, "x.weights"), Path(name, "x.onnx")
        cfg.write_text(CFG, encoding="utf-8")
        weights.write_bytes(weights_of_cfg())
        export(Pair(cfg, weights), out, ExportSettings(static=True))
        return out.read_bytes()


def _kit_model() -> bytes:
    from darkprune.kit.schema import describe, to_json
    from darkprune.targets import target

    place = target("orin")
    return to_json(describe(_graph(), ("cat",), ("head_4",), place)._replace(onnx_sha256="0" * 64), place).encode()


def _gammas() -> bytes:
    file = io.BytesIO()
    counts = np.ones((2, 1, 3), np.int64)
    np.savez_compressed(file, epochs=np.arange(2), edges=np.linspace(0, 1, 4), groups=np.array(["g1"]), counts=counts)
    return file.getvalue()


def _png(width: int = 4, height: int = 4) -> bytes:
    rows = b"".join(b"\0" + bytes(3 * width) for _ in range(height))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PNG = _png()
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}],
    "categories": [{"id": 3, "name": "cat"}],
}
XML = (
    b"<annotation><filename>a.png</filename><size><width>4</width><height>4</height><depth>3</depth></size><object>"
    b"<name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox>"
    b"</object></annotation>"
)
TOML = (
    b'[compress]\ndata = "obj.data"\ntarget-macs = 0.5\nskip = ["sparse"]\n\n[prune]\nround-to = 8\n\n'
    b"[distill]\nepochs = 60\nlr = 5e-4\n"
)
ENGINE = {
    "format": 1,
    "engine_sha256": sha256(b"engine").hexdigest(),
    "tensorrt": "10.3.0",
    "gpu": "GPU",
    "capability": "8.7",
}
YAML = b"path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
ARGUMENTS = (
    b"prune\nx.cfg\nx.weights\n--ratio\n0.5\n--exclude\n1,2\n-o\nout\n--merge\nvote",
    b"train\nx.cfg\n--data\nd\n-o\no\n--lr\n0.1\n--size\n416x416\n--epochs\n3",
)

#: name -> what makes the reader; some of their good files take torch or onnx to make
READERS: dict[str, Callable[[], Reader]] = {
    "cfg": lambda: Reader("cfg", "x.cfg", [CFG.encode()], _read_cfg, lambda draw: random_cfg(draw, sorted(KINDS))),
    "weights": lambda: Reader("weights", "x.weights", [weights_of_cfg()], _read_weights),
    "plan": lambda: Reader("plan", "plan.json", [_plan()], _read_plan),
    "toml": lambda: Reader("toml", "run.toml", [TOML], _read_toml),
    "coco": lambda: Reader("coco", "x.json", [_json(COCO)], _read_data),
    "yaml": lambda: Reader("yaml", "x.yaml", [YAML], _read_data),
    "data": lambda: Reader("data", "x.data", [b"classes=2\ntrain=t.txt\nvalid=v.list\nnames=n.list\n"], _read_data),
    "list": lambda: Reader("list", "x.txt", [b"a.png\nimages/b.jpg\n/absent/c.png\n"], _read_data),
    "labels": lambda: Reader("labels", "a.txt", [b"0 0.5 0.5 0.2 0.1\n3 0.1 0.9 0.1 0.1\n"], _read_labels),
    "voc": lambda: Reader("voc", "a.xml", [XML], _read_voc),
    "image": lambda: Reader("image", "a.png", [PNG, _png(40, 3)], _read_image),
    "log": lambda: Reader("log", "log.csv", [b"step,epoch,loss,map50\n1,0.1,2.5,\n2,0.2,2.25,0.5\n"], _read_log),
    "gamma": lambda: Reader("gamma", "gamma.npz", [_gammas()], _read_gammas),
    "state": lambda: Reader("state", "state.pt", [_state()], _read_state),
    "onnx": lambda: Reader("onnx", "x.onnx", [_onnx()], _read_onnx),
    "kitmodel": lambda: Reader("kitmodel", "model.json", [_kit_model()], _read_kit),
    "engine": lambda: Reader("engine", "x.engine.json", [_json(ENGINE)], _read_engine),
    "names": lambda: Reader("names", "x.names", [b"cat\ndog\n"], _read_names),
    "args": lambda: Reader("args", "words", ARGUMENTS, _read_arguments),
}
