"""A picture in, detections out: preprocessing, the engine, decoding and suppression in one place."""

from typing import Dict, List, Optional, Tuple

import numpy as np

from . import RuntimeFailure, one_line
from .detections import Candidates, Detections, decode, suppress, undo_letterbox
from .model import Model
from .pictures import to_input
from .session import Session


class Detector:
    """An engine together with the description of its network."""

    def __init__(self, session: Session, model: Model, threshold: float = -1, nms_threshold: float = -1) -> None:
        """Checks that engine and description belong together.

        Args:
            session: the engine.
            model: description of the network.
            threshold: scores at or below it are dropped; negative: as model.json says.
            nms_threshold: likewise, for suppression.

        Raises:
            RuntimeFailure: the engine has another input than the description says.
        """
        self.session = session
        self.model = model
        facts = model.input
        self.size: Tuple[int, int] = (facts.width, facts.height)
        self.threshold = model.detection.threshold if threshold < 0 else threshold
        self.nms_threshold = model.detection.nms_threshold if nms_threshold < 0 else nms_threshold
        if [tensor.name for tensor in session.inputs] != [facts.name]:
            raise RuntimeFailure("engine: its input is not {}, build it from this kit".format(facts.name))
        wanted = (facts.channels, facts.height, facts.width)
        if session.inputs[0].shape[1:] != wanted:
            raise RuntimeFailure("engine: takes {}, the kit has {}".format(session.inputs[0].shape[1:], wanted))
        self.batch = session.inputs[0].shape[0]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns the network's input for one picture: (channels, height, width) float32."""
        facts = self.model.input
        return to_input(image, facts.width, facts.height, facts.channels, facts.letterbox)

    def detect(self, images: List[np.ndarray]) -> List[Detections]:
        """Returns the detections of each picture; boxes are relative to it, centre and size.

        Args:
            images: at most as many as the engine's batch; (h, w, 3) uint8 in BGR order or (h, w) uint8.
        """
        inputs = [self.prepare(image) for image in images]
        inputs += [inputs[-1]] * (self.batch - len(inputs))  # the batch is filled up
        outputs = self.session.run({self.model.input.name: np.stack(inputs)})
        return [self.read(outputs, index, (image.shape[1], image.shape[0])) for index, image in enumerate(images)]

    def read(self, outputs: Dict[str, np.ndarray], index: int, picture: Tuple[int, int]) -> Detections:
        """Returns the detections of one picture of a batch, of width and height `picture`."""
        found = decode(self.model.heads, outputs, self.size, self.threshold, index)
        if self.model.input.letterbox:
            found = Candidates(undo_letterbox(found.boxes, picture, self.size), found.scores)
        rules = self.model.detection
        return suppress(found, rules.nms, self.nms_threshold, rules.nms_beta)


def lines(found: Detections, names: List[str], picture: Tuple[int, int]) -> List[str]:
    """Returns one line per detection as darknet's -ext_output prints them, best first."""
    width, height = picture
    order = np.argsort(-found.scores, kind="mergesort")
    result = []
    for index in order:
        x, y, w, h = [float(value) for value in found.boxes[index]]
        result.append(
            "{}: {:.0f}%\t(left_x: {:4.0f}   top_y: {:4.0f}   width: {:4.0f}   height: {:4.0f})".format(
                one_line(names[int(found.classes[index])]),
                100 * found.scores[index],
                (x - w / 2) * width,
                (y - h / 2) * height,
                w * width,
                h * height,
            )
        )
    return result


def as_json(found: Detections, names: List[str], label: Optional[str] = None) -> Dict[str, object]:
    """Returns detections as plain data, in the layout of darknet's `-out` files."""
    objects = []
    for box, score, index in zip(found.boxes, found.scores, found.classes):
        centre_x, centre_y, width, height = [float(value) for value in box]
        objects.append(
            {
                "class_id": int(index),
                "name": names[int(index)],
                "relative_coordinates": {
                    "center_x": centre_x,
                    "center_y": centre_y,
                    "width": width,
                    "height": height,
                },
                "confidence": float(score),
            }
        )
    return {"filename": label, "objects": objects}
