"""`darkprune detect`: boxes on images, folders and videos."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from darkprune.cli.console import add_json, add_pair, follow, print_json, progress, warn
from darkprune.cli.eval import resized
from darkprune.data.class_names import class_names
from darkprune.data.images import Pixels
from darkprune.data.loading import InputShape, batch_of
from darkprune.data.reading import IMAGE_SUFFIXES, list_images
from darkprune.errors import DataError, OutputError
from darkprune.evaluation import Detections, Head, detect
from darkprune.evaluation.drawing import draw, pixel_boxes
from darkprune.evaluation.evaluate import detect_batch
from darkprune.evaluation.of_graph import heads_of, input_shape
from darkprune.graph.graph import read_graph
from darkprune.runners.base import FAST_FIRST, RUNNERS, LoadedNetwork, load_with_any
from darkprune.zoo import resolve


@dataclass(frozen=True)
class _Detector:
    """A loaded network with what its output means."""

    network: LoadedNetwork
    heads: tuple[Head, ...]
    shape: InputShape
    names: tuple[str, ...]


def configure(parser: ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_pair(parser)
    parser.add_argument("source", metavar="IMAGE|DIR|VIDEO", help="what to look at")
    parser.add_argument("--names", metavar="F", help="names of the classes (default: the cfg's own .names beside it)")
    parser.add_argument("--thresh", type=float, default=0.25, help="lowest score shown (default 0.25)")
    parser.add_argument("--nms", type=float, default=0.45, help="overlap threshold of the suppression (default 0.45)")
    parser.add_argument("--letterbox", action="store_true", help="keep the aspect, as letter_box=1 in the cfg")
    parser.add_argument("--size", metavar="WxH", help="another input size than the cfg's")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default 8)")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for images (or a video) with boxes drawn")
    parser.add_argument("--runner", choices=tuple(RUNNERS), help="program to run the network in")
    parser.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    add_json(parser)


def run(args: Namespace) -> int:
    """Finds objects and shows them."""
    cfg, source = resolve(args.cfg), Path(args.source)
    graph = resized(read_graph(cfg), args.size)
    heads = heads_of(graph)
    shape = input_shape(graph)
    if args.letterbox:
        shape = InputShape(shape.width, shape.height, shape.channels, True)
    names = class_names(args.names, graph)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; give an image, a folder of images or a video")
    runner, network = load_with_any(graph, resolve(args.weights, "weights"), args.runner, taps=False, order=FAST_FIRST)
    detector = _Detector(network, heads, shape, names)
    if source.is_dir() or source.suffix.lower() in IMAGE_SUFFIXES:
        results = _images(args, source, detector)
    else:
        results = _video(args, source, detector)
    if args.json:
        print_json({"runner": runner, "images": results})
    return 0


def _images(args: Namespace, source: Path, detector: _Detector) -> list[dict[str, Any]]:
    paths = list_images(source) if source.is_dir() else (source,)
    with progress(len(paths), "detecting", "image") as bar:
        found = detect(
            detector.network.head_maps,
            detector.heads,
            paths,
            detector.shape,
            threshold=args.thresh,
            nms=args.nms,
            batch=max(1, args.batch),
            strict=args.strict or len(paths) == 1,
            progress=follow(bar),
        )
    target = _folder(args.output)
    results = []
    for number, path in enumerate(paths):
        width, height = found.sizes[number].tolist()
        if not width:
            continue
        here = found.detections.select(found.detections.image == number)
        results.append(_describe(str(path), width, height, here, detector.names))
        if target is not None:
            _save(target / f"{path.stem}.jpg", draw(_reread(path), here, detector.names))
        if not args.json:
            _print(results[-1])
    for problem in found.problems:
        warn(str(problem))
    if found.problems:
        warn(f"{len(found.problems)} of {len(paths)} images were skipped")
    return results


def _video(args: Namespace, source: Path, detector: _Detector) -> list[dict[str, Any]]:
    shape, names = detector.shape, detector.names
    video = cv2.VideoCapture(str(source))
    if not video.isOpened():
        raise DataError(f"{source}: is neither an image nor a video that OpenCV can read")
    target = _folder(args.output)
    writer: cv2.VideoWriter | None = None
    results: list[dict[str, Any]] = []
    total = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    try:
        with progress(total, "detecting", "frame") as bar:
            for frames in _frames(video, max(1, args.batch)):
                batch = batch_of([np.ascontiguousarray(_channels(frame, shape)) for frame in frames], shape)
                found = detect_batch(
                    detector.network.head_maps, detector.heads, batch, shape, args.thresh, nms=args.nms
                )
                for number, frame in enumerate(frames):
                    here = found.select(found.image == number)
                    height, width = frame.shape[:2]
                    results.append(_describe(f"{source}#{len(results)}", width, height, here, names))
                    if target is not None:
                        if writer is None:
                            writer = _writer(target / f"{source.stem}.mp4", video, width, height)
                        writer.write(draw(frame, here, names))
                    elif not args.json:
                        _print(results[-1])
                bar.update(len(frames))
    finally:
        video.release()
        if writer is not None:
            writer.release()
    if not results:
        raise DataError(f"{source}: holds no frame that OpenCV can read")
    if target is not None and not args.json:
        print(f"{target / f'{source.stem}.mp4'}: {len(results)} frames")
    return results


def _frames(video: cv2.VideoCapture, count: int) -> Iterator[list[Pixels]]:
    frames: list[Pixels] = []
    while True:
        more, frame = video.read()
        if more:
            frames.append(np.asarray(frame, np.uint8))
        if frames and (not more or len(frames) == count):
            yield frames
            frames = []
        if not more:
            return


def _channels(frame: Pixels, shape: InputShape) -> Pixels:
    code = cv2.COLOR_BGR2GRAY if shape.channels == 1 else cv2.COLOR_BGR2RGB
    converted = np.asarray(cv2.cvtColor(frame, code), np.uint8)
    return converted[..., None] if converted.ndim == 2 else converted


def _writer(path: Path, video: cv2.VideoCapture, width: int, height: int) -> cv2.VideoWriter:
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    if not writer.isOpened():
        raise OutputError(f"{path}: OpenCV cannot write a video there")
    return writer


def _folder(output: str | None) -> Path | None:
    if output is None:
        return None
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from None
    return folder


def _reread(path: Path) -> Pixels:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)


def _save(path: Path, image: Pixels) -> None:
    if not cv2.imwrite(str(path), image):
        raise OutputError(f"{path}: cannot be written")


def _describe(name: str, width: int, height: int, found: Detections, names: tuple[str, ...]) -> dict[str, Any]:
    order = np.argsort(-found.scores, kind="stable").tolist()
    boxes = pixel_boxes(found.boxes, width, height)
    objects = []
    for number in order:
        label = int(found.classes[number])
        objects.append(
            {
                "class": label,
                "name": names[label] if label < len(names) else str(label),
                "score": round(float(found.scores[number]), 6),
                "box": [round(value, 2) for value in boxes[number].tolist()],
            }
        )
    return {"image": name, "width": width, "height": height, "objects": objects}


def _print(result: dict[str, Any]) -> None:
    count = len(result["objects"])
    print(f"{result['image']}: {count} object{'' if count == 1 else 's'}")
    for entry in result["objects"]:
        left, top, right, bottom = entry["box"]
        print(f"  {entry['name']:<16} {entry['score']:.3f}  {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f}")
