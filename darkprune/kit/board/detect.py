"""Detect objects in a picture, a folder, a video or a camera: python3 detect.py dog.jpg

Sources: dog.jpg, pictures/, street.mp4, csi:0 (CSI camera), usb:0. Boxes and scores are darknet's.
"""

import argparse
import json
import os
import sys
import time
from typing import Dict, List, Set

import cv2
import numpy as np

from darkprune.kit.board.runtime import RuntimeFailure, one_line
from darkprune.kit.board.runtime.command import open_kit_engine, run
from darkprune.kit.board.runtime.detections import Detections
from darkprune.kit.board.runtime.detector import Detector, as_json, lines
from darkprune.kit.board.runtime.files import check_file, make_folder, write_atomic
from darkprune.kit.board.runtime.model import load_model
from darkprune.kit.board.runtime.pictures import Camera, frames

HERE = os.path.dirname(os.path.abspath(__file__))


def draw(image: np.ndarray, found: Detections, names: List[str]) -> np.ndarray:
    """Returns the picture with boxes and names drawn on it."""
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image.copy()
    height, width = canvas.shape[:2]
    for box, score, index in zip(found.boxes, found.scores, found.classes):
        x, y, w, h = [float(value) for value in box]
        corner = (int((x - w / 2) * width), int((y - h / 2) * height))
        # neighbouring classes get distant colours
        colour = tuple(int(value) for value in np.random.RandomState(int(index)).randint(64, 256, 3))
        cv2.rectangle(canvas, corner, (int((x + w / 2) * width), int((y + h / 2) * height)), colour, 2)
        text = "{} {:.2f}".format(one_line(names[int(index)]), float(score))
        cv2.putText(canvas, text, (corner[0], max(corner[1] - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1)
    return canvas


def drawn_name(label: str, number: int, used: Set[str]) -> str:
    """Returns the name of an annotated picture, each one different; frames of a video are numbered."""
    if "#" in label:
        return "frame{:06d}.jpg".format(number)
    base = os.path.basename(label)
    name, count = os.path.splitext(base)[0] + ".jpg", 1
    while name.lower() in used:  # a.png beside a.jpg; some file systems do not tell A from a
        name = "{}{}.jpg".format(base, "" if count == 1 else ".{}".format(count))
        count += 1
    used.add(name.lower())
    return name


def save_picture(path: str, canvas: np.ndarray) -> None:
    """Writes an annotated picture, whole or not at all."""
    done, data = cv2.imencode(".jpg", canvas)
    if not done:
        raise RuntimeFailure("{}: OpenCV cannot write JPEG".format(path))
    write_atomic(path, data.tobytes())


def main() -> int:
    """Reads pictures, detects, prints, and draws or writes what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="picture, folder, video, csi:N or usb:N")
    parser.add_argument("--engine", default="", metavar="FILE")
    parser.add_argument("--thresh", type=float, default=-1.0, help="smallest score, darknet's -thresh")
    parser.add_argument("--nms", type=float, default=-1.0, help="largest overlap")
    parser.add_argument("--out", metavar="DIR", help="write annotated pictures to a new folder")
    parser.add_argument("--json", metavar="FILE", help="write all detections to a new file")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier results of --out and --json")
    parser.add_argument("--show", action="store_true", help="open a window; q ends")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="stop after N pictures")
    parser.add_argument("--size", default="1280x720", metavar="WxH", help="what to ask of a camera")
    parser.add_argument("--fps", type=int, default=30, help="what to ask of a camera")
    parser.add_argument("--turn", type=int, default=0, choices=(0, 1, 2, 3), help="turn a CSI camera by 90 degrees")
    arguments = parser.parse_args()
    width, _, height = arguments.size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(arguments.size) < 20):
        raise RuntimeFailure("--size {}: write it as 1280x720".format(arguments.size))
    camera = Camera(int(width), int(height), arguments.fps, arguments.turn)

    if arguments.json:
        check_file(arguments.json, arguments.overwrite)
    if arguments.out:
        make_folder(arguments.out, arguments.source, arguments.overwrite)
    model = load_model(HERE)
    session = open_kit_engine(HERE, arguments.engine, model)
    detector = Detector(session, model, arguments.thresh, arguments.nms)
    results: List[Dict[str, object]] = []
    used: Set[str] = set()
    for number, (label, image) in enumerate(frames(arguments.source, camera, model.input.channels)):
        started = time.perf_counter()
        found = detector.detect([image])[0]
        milliseconds = 1000 * (time.perf_counter() - started)
        print("{}: {} objects in {:.1f} ms".format(one_line(label), len(found.scores), milliseconds))
        for line in lines(found, model.names, (image.shape[1], image.shape[0])):
            print("  " + line, flush=True)
        if arguments.json:
            results.append(as_json(found, model.names, label))
        if arguments.out:
            path = os.path.join(arguments.out, drawn_name(label, number, used))
            save_picture(path, draw(image, found, model.names))
        if arguments.show:
            cv2.imshow("darkprune", draw(image, found, model.names))
            if cv2.waitKey(1) & 0xFF == ord("q"):
                break
        if number + 1 == arguments.limit:
            break
    session.close()
    if arguments.json:
        write_atomic(arguments.json, json.dumps(results, indent=1).encode("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
