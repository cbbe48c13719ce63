"""`detect`: objects in images, folders and videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from darkprune.api.evaluate import skipped
from darkprune.api.pair import Network, on_disk
from darkprune.data.class_names import class_names
from darkprune.data.image_files import is_image, list_images
from darkprune.data.images import Pixels
from darkprune.data.loading import batch_of
from darkprune.errors import DataError, OutputError
from darkprune.evaluation.detector import Detector, Loading, detect_batch, find_objects
from darkprune.evaluation.drawing import draw, pixel_boxes
from darkprune.evaluation.nms import NMS_THRESHOLD, Detections
from darkprune.graph.graph import resized
from darkprune.progress import Progress, reporting, track
from darkprune.runners.base import FAST_FIRST, RUNNERS, load_with_any
from darkprune.settings import PathLike, setting


@dataclass(frozen=True, kw_only=True)
class DetectSettings:
    """How objects are found."""

    names: PathLike | None = setting(
        None, "names of the classes (default: the cfg's own .names beside it)", metavar="F"
    )
    thresh: float = setting(0.25, "lowest score shown")
    nms: float = setting(NMS_THRESHOLD, "overlap threshold of the suppression")
    letterbox: bool = setting(False, "keep the aspect, as letter_box=1 in the cfg")
    size: str | None = setting(None, "another input size than the cfg's", metavar="WxH")
    batch: int = setting(8, "images at a time")
    runner: str | None = setting(None, "program to run the network in", choices=tuple(RUNNERS))
    strict: bool = setting(False, "stop at the first image that cannot be read")


@dataclass(frozen=True)
class FoundObject:
    """One object.

    Attributes:
        label: class number.
        name: of the class; its number where no names are known.
        score: 0 to 1.
        box: left, top, right, bottom in pixels of the image.
    """

    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageObjects:
    """What was found in one image, or one frame of a video.

    Attributes:
        image: path of the image, or `video.mp4#12` for a frame.
        width, height: in pixels.
        objects: by falling score.
    """

    image: str
    width: int
    height: int
    objects: tuple[FoundObject, ...]

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        objects = [{"class": o.label, "name": o.name, "score": o.score, "box": list(o.box)} for o in self.objects]
        return {**asdict(self), "objects": objects}


@dataclass(frozen=True)
class DetectResult:
    """What was found.

    Attributes:
        runner: the program that ran the network.
        images: those that could be read, in order; the frames of a video.
        drawn: files with boxes drawn.
        warnings: images that were skipped.
    """

    runner: str
    images: tuple[ImageObjects, ...]
    drawn: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Returns the fields as JSON values."""
        return {
            "runner": self.runner,
            "images": [image.to_json() for image in self.images],
            "drawn": list(map(str, self.drawn)),
            "warnings": list(self.warnings),
        }


def detect(
    network: Network,
    source: PathLike,
    settings: DetectSettings | None = None,
    *,
    output: PathLike | None = None,
    progress: Progress | None = None,
) -> DetectResult:
    """Finds objects.

    Args:
        network: the detector.
        source: an image, a folder of images, or a video.
        settings: how; by default with a score of 0.25 and more.
        output: folder for images (or a video) with boxes drawn.
        progress: gets events.

    Raises:
        DataError: there is nothing to look at, or it cannot be read.
        GraphError: the network detects nothing.
        RunnerError: no program at hand runs it.
        OutputError: `output` cannot be written.
    """
    settings = settings or DetectSettings()
    source = Path(source)
    graph = resized(network.graph, settings.size)
    names = class_names(settings.names, graph)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; give an image, a folder of images or a video")
    is_video = not source.is_dir() and not is_image(source)
    with on_disk(network) as pair, reporting(progress) as report:
        runner, loaded = load_with_any(graph, pair.weights_file, settings.runner, taps=False, order=FAST_FIRST)
        detector = Detector.of(graph, loaded.head_maps)
        if settings.letterbox:
            detector = replace(detector, shape=replace(detector.shape, letterbox=True))
        target = None if output is None else _folder(Path(output))
        work = _Work(detector, settings, names, target, report)
        return replace(work.video(source) if is_video else work.images(source), runner=runner)


@dataclass(frozen=True)
class _Work:
    """One call of `detect`."""

    detector: Detector
    settings: DetectSettings
    names: tuple[str, ...]
    target: Path | None
    progress: Progress

    def images(self, source: Path) -> DetectResult:
        """Looks at an image or a folder of images."""
        paths = list_images(source) if source.is_dir() else (source,)
        settings = self.settings
        loading = Loading(max(1, settings.batch), strict=settings.strict or len(paths) == 1)
        found = find_objects(
            self.detector, paths, loading, threshold=settings.thresh, nms=settings.nms, progress=self.progress
        )
        results, drawn = [], []
        for number, path in enumerate(paths):
            width, height = found.sizes[number].tolist()
            if not width:
                continue
            here = found.of_image(number)
            results.append(self._objects(str(path), width, height, here))
            if self.target is not None:
                drawn.append(self.target / f"{path.stem}.jpg")
                pixels = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)
                if not cv2.imwrite(str(drawn[-1]), draw(pixels, here, self.names)):
                    raise OutputError(f"{drawn[-1]}: cannot be written")
        return DetectResult("", tuple(results), tuple(drawn), tuple(skipped(found.problems, len(paths))))

    def video(self, source: Path) -> DetectResult:
        """Looks at every frame of a video."""
        detector, settings = self.detector, self.settings
        video = cv2.VideoCapture(str(source))
        if not video.isOpened():
            raise DataError(f"{source}: is neither an image nor a video that OpenCV can read")
        target = None if self.target is None else self.target / f"{source.stem}.mp4"
        writer: cv2.VideoWriter | None = None
        results: list[ImageObjects] = []
        step = track(self.progress, "detecting", max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))), "frame")
        try:
            for frames in _frames(video, max(1, settings.batch)):
                batch = batch_of([_as_input(frame, detector.shape.channels) for frame in frames], detector.shape)
                found = detect_batch(detector, batch, settings.thresh, settings.nms)
                for number, frame in enumerate(frames):
                    here = found.select(found.image == number)
                    height, width = frame.shape[:2]
                    results.append(self._objects(f"{source}#{len(results)}", width, height, here))
                    if target is not None:
                        writer = writer or _writer(target, video, width, height)
                        writer.write(draw(frame, here, self.names))
                step(len(frames))
        finally:
            video.release()
            if writer is not None:
                writer.release()
        if not results:
            raise DataError(f"{source}: holds no frame that OpenCV can read")
        return DetectResult("", tuple(results), () if target is None else (target,))

    def _objects(self, image: str, width: int, height: int, found: Detections) -> ImageObjects:
        order = np.argsort(-found.scores, kind="stable").tolist()
        boxes = np.round(pixel_boxes(found.boxes, width, height), 2).tolist()
        labels, scores = found.classes.tolist(), found.scores.tolist()
        known = len(self.names)
        return ImageObjects(
            image,
            width,
            height,
            tuple(
                FoundObject(
                    label=labels[number],
                    name=self.names[labels[number]] if labels[number] < known else str(labels[number]),
                    score=round(scores[number], 6),
                    box=tuple(boxes[number]),
                )
                for number in order
            ),
        )


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _frames(video: cv2.VideoCapture, count: int) -> Iterator[list[Pixels]]:
    """Yields the frames of a video, BGR, so many at a time."""
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


def _as_input(frame: Pixels, channels: int) -> Pixels:
    """Turns a BGR frame into (h, w, c), RGB or grey."""
    code = cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB
    return np.ascontiguousarray(cv2.cvtColor(frame, code), np.uint8).reshape(*frame.shape[:2], channels)


def _writer(path: Path, video: cv2.VideoCapture, width: int, height: int) -> cv2.VideoWriter:
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    if not writer.isOpened():
        raise OutputError(f"{path}: OpenCV cannot write a video there")
    return writer
