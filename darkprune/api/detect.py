"""`detect`: objects in images, folders and videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from darkprune.api.conversion.origin import plan_hash
from darkprune.api.evaluate import skipped
from darkprune.api.pair import Network, on_disk
from darkprune.darknet.output import check_folder, result_folder
from darkprune.data.class_names import class_names
from darkprune.data.image_files import images_of, is_image, is_list
from darkprune.data.images import Pixels, read_image
from darkprune.data.loading import batch_of
from darkprune.errors import DataError, OutputError
from darkprune.evaluation.detector import Detector, Loading, detect_batch, find_objects
from darkprune.evaluation.drawing import draw, pixel_boxes
from darkprune.evaluation.nms import NMS_THRESHOLD, Detections
from darkprune.graph.graph import resized
from darkprune.progress import Progress, reporting, track
from darkprune.runners.base import FAST_FIRST, RUNNERS, load_with_any
from darkprune.settings import PathLike, Settings, setting


@dataclass(frozen=True, kw_only=True)
class DetectSettings(Settings):
    """How objects are found."""

    names: PathLike | None = setting(
        None, "names of the classes", default_text="the cfg's own .names beside it", metavar="F"
    )
    thresh: float = setting(0.25, "lowest score shown")
    nms: float = setting(NMS_THRESHOLD, "overlap threshold of the suppression")
    letterbox: bool = setting(False, "keep the aspect, as letter_box=1 in the cfg")
    size: str | None = setting(None, "another input size than the cfg's", metavar="WxH")
    batch: int = setting(8, "images at a time")
    runner: str | None = setting(
        None, "program to run the network in", choices=tuple(RUNNERS), default_text="the first that can"
    )
    strict: bool = setting(False, "stop at the first image that cannot be read")
    overwrite: bool = setting(False, "replace an earlier result")


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
        warnings: what is odd about the pair, and images that were skipped.
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
        source: an image, a folder or a list of images, or a video.
        settings: how; by default with a score of 0.25 and more.
        output: folder for images (or a video) with boxes drawn; it is written as a whole.
        progress: gets events.

    Raises:
        DataError: there is nothing to look at, or nothing of it can be read.
        GraphError: the network detects nothing.
        RunnerError: no program at hand runs it.
        OutputError: `output` exists, holds the source, or cannot be written.
    """
    settings = settings or DetectSettings()
    source = Path(source)
    graph = resized(network.graph, settings.size)
    names = class_names(settings.names, graph)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; give an image, a folder or list of images, or a video")
    if output is not None:
        check_folder(Path(output), [source], settings.overwrite)
    is_video = not (source.is_dir() or is_image(source) or is_list(source))
    with ExitStack() as stack:
        stack.enter_context(reporting(progress))
        pair = stack.enter_context(on_disk(network))
        runner, loaded = load_with_any(graph, pair.weights_file, settings.runner, taps=False, order=FAST_FIRST)
        detector = Detector.of(graph, loaded.head_maps)
        if settings.letterbox:
            detector = replace(detector, shape=replace(detector.shape, letterbox=True))
        folder = None
        if output is not None:
            inputs = [source, pair.cfg, pair.weights_file]
            folder = stack.enter_context(result_folder(Path(output), inputs, settings.overwrite))
        work = _Work(detector, settings, names, folder)
        result = work.video(source) if is_video else work.images(source)
        warnings = (*pair.warnings(), *result.warnings)
    drawn = tuple(Path(output or "") / path for path in result.drawn)
    warnings = (*warnings, *_blind(network, result))
    return replace(result, runner=runner, drawn=drawn, warnings=warnings)


def _blind(network: Network, result: DetectResult) -> list[str]:
    """Explains why a pruned network may find nothing at all."""
    if any(image.objects for image in result.images) or not plan_hash(network):
        return []
    return [
        f"nothing was found in {len(result.images)} images, and the network was pruned: it may have lost channels that "
        "it needs; darkprune compress makes one that still finds things, darkprune distill or train repairs this one, "
        "and --thresh 0.05 shows what it is unsure of"
    ]


@dataclass(frozen=True)
class _Work:
    """One call of `detect`; its results name files that are drawn relative to the folder."""

    detector: Detector
    settings: DetectSettings
    names: tuple[str, ...]
    folder: Path | None

    def images(self, source: Path) -> DetectResult:
        """Looks at an image, or at the images of a folder or a list."""
        paths = (source,) if is_image(source) and not source.is_dir() else images_of(source)
        settings = self.settings
        loading = Loading(max(1, settings.batch), strict=settings.strict or len(paths) == 1)
        found = find_objects(self.detector, paths, loading, threshold=settings.thresh, nms=settings.nms)
        if len(found.problems) == len(paths):
            raise DataError(f"{source}: not one of its {len(paths)} images can be read; {found.problems[0]}")
        outputs = drawn_names(paths, source)
        results, drawn = [], []
        for number, path in enumerate(paths):
            width, height = found.sizes[number].tolist()
            if not width:
                continue
            here = found.of_image(number)
            results.append(self._objects(str(path), width, height, here))
            if self.folder is not None:
                drawn.append(outputs[number])
                _write_jpeg(self.folder / outputs[number], draw(read_image(path)[:, :, ::-1], here, self.names))
        return DetectResult("", tuple(results), tuple(drawn), tuple(skipped(found.problems, len(paths))))

    def video(self, source: Path) -> DetectResult:
        """Looks at every frame of a video."""
        detector, settings = self.detector, self.settings
        video = _open_video(source)
        name = Path(f"{source.stem}.mp4")
        writer: cv2.VideoWriter | None = None
        results: list[ImageObjects] = []
        step = track("detecting", max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))), "frame")
        try:
            for frames in _frames(video, max(1, settings.batch)):
                batch = batch_of([_as_input(frame, detector.shape.channels) for frame in frames], detector.shape)
                found = detect_batch(detector, batch, settings.thresh, settings.nms)
                for number, frame in enumerate(frames):
                    here = found.select(found.image == number)
                    height, width = frame.shape[:2]
                    results.append(self._objects(f"{source}#{len(results)}", width, height, here))
                    if self.folder is not None:
                        writer = writer or _video_writer(self.folder / name, video, width, height)
                        writer.write(draw(frame, here, self.names))
                step(len(frames))
        finally:
            video.release()
            if writer is not None:
                writer.release()
        if not results:
            raise DataError(f"{source}: holds no frame that OpenCV can read")
        return DetectResult("", tuple(results), () if self.folder is None else (name,))

    def _objects(self, image: str, width: int, height: int, found: Detections) -> ImageObjects:
        boxes = np.round(pixel_boxes(found.boxes, width, height), 2).tolist()
        names = dict(enumerate(self.names))
        rows = zip(found.classes.tolist(), found.scores.tolist(), boxes, strict=True)
        objects = tuple(
            FoundObject(label, names.get(label, str(label)), round(score, 6), tuple(box))
            for label, score, box in sorted(rows, key=lambda row: -row[1])
        )
        return ImageObjects(image, width, height, objects)


def drawn_names(paths: Sequence[Path], source: Path) -> list[Path]:
    """Returns the file of every image with boxes, each one different, as the images lie in a source folder.

    Args:
        paths: the images.
        source: what they were found in.
    """
    used: set[str] = set()
    names = []
    for path in paths:
        place = path.relative_to(source) if source.is_dir() else Path(path.name)
        name, number = place.with_suffix(".jpg"), 1
        while str(name).casefold() in used:  # a.png beside a.jpg; some file systems do not tell A from a
            name = place.with_name(f"{place.name}{'' if number == 1 else f'.{number}'}.jpg")
            number += 1
        used.add(str(name).casefold())
        names.append(name)
    return names


def _write_jpeg(path: Path, image: Pixels) -> None:
    done, data = cv2.imencode(".jpg", image)
    if not done:
        raise OutputError(f"{path}: OpenCV cannot write JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def _open_video(path: Path) -> cv2.VideoCapture:
    if path.is_fifo():
        raise DataError(f"{path}: is a pipe; give an image, a folder or list of images, or a video")
    try:
        video = cv2.VideoCapture(str(path))
    except (cv2.error, UnicodeEncodeError):
        video = None
    if video is None or not video.isOpened():
        raise DataError(f"{path}: is neither an image nor a video that OpenCV can read")
    return video


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


def _video_writer(path: Path, video: cv2.VideoCapture, width: int, height: int) -> cv2.VideoWriter:
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    if not writer.isOpened():
        raise OutputError(f"{path}: OpenCV cannot write a video there")
    return writer
