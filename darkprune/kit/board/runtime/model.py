"""Reads `model.json`, the description of the network that the scripts of a kit go by.

darkprune writes it from the same tuples (`kit/schema.py`).
"""

import os
from typing import Callable, Dict, List, NamedTuple, NoReturn, TypeVar, get_type_hints

from . import RuntimeFailure
from .files import read_json, sha256_of

T = TypeVar("T")

FORMAT = 1
NAME = "model.json"


class Input(NamedTuple):
    """The network's input: name of the tensor, sizes in pixels, whether pictures keep their aspect ratio."""

    name: str
    width: int
    height: int
    channels: int
    letterbox: bool


class Head(NamedTuple):
    """A detection head: the output that it reads, and the values of its section in the cfg."""

    output: str
    kind: str
    classes: int
    anchors: List[List[float]]
    scale_x_y: float
    new_coords: bool
    coords: int
    softmax: bool
    yolo_point: str


class Rules(NamedTuple):
    """Thresholds, and the kind of suppression: `nms` and `nms_beta` are `nms_kind` and `beta_nms` of the cfg."""

    threshold: float
    nms: str
    nms_threshold: float
    nms_beta: float


class Model(NamedTuple):
    """The content of `model.json`; `name` is what texts call the network."""

    name: str
    onnx: str
    onnx_sha256: str
    input: Input
    heads: List[Head]
    names: List[str]
    detection: Rules
    precision: str
    file_precision: str
    workspace_mb: int


def load_model(folder: str) -> Model:
    """Reads the description in a kit's folder.

    Raises:
        RuntimeFailure: there is none, another version of darkprune wrote it, or it is damaged.
    """
    path = os.path.join(folder, NAME)
    content = read_json(path, "copy the kit again")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RuntimeFailure("{}: not of format {}, copy the whole kit again".format(path, FORMAT))
    fields = _Fields(path, content)
    model = Model(
        name=fields.text("name"),
        onnx=fields.text("onnx"),
        onnx_sha256=fields.text("onnx_sha256"),
        input=fields.inside("input").all_of(Input),
        heads=[_Fields(path, entry).all_of(Head) for entry in fields.entries("heads")],
        names=fields.texts("names"),
        detection=fields.inside("detection").all_of(Rules),
        precision=fields.text("precision"),
        file_precision=fields.text("file_precision"),
        workspace_mb=fields.count("workspace_mb"),
    )
    if model.input.channels not in (1, 3) or any(head.classes > len(model.names) for head in model.heads):
        raise RuntimeFailure("{}: its parts do not fit together, copy the kit again".format(path))
    return model


def onnx_path(folder: str, model: Model) -> str:
    """Returns the kit's ONNX file, after a look whether it is the one that the description means.

    Raises:
        RuntimeFailure: it is missing or was changed.
    """
    path = os.path.join(folder, model.onnx)
    if sha256_of(path) != model.onnx_sha256:
        raise RuntimeFailure("{}: not the file that {} describes, copy the kit again".format(path, NAME))
    return path


class _Fields:
    """The fields of a JSON object; one that is missing or of another type is a `RuntimeFailure`."""

    def __init__(self, path: str, content: object) -> None:
        self._path = path
        self._content: Dict[str, object] = content if isinstance(content, dict) else {}

    def all_of(self, kind: Callable[..., T]) -> T:
        """Returns a named tuple, whose fields are read by their types."""
        read = {str: self.text, bool: self.flag, float: self.number, int: self.count, List[List[float]]: self.pairs}
        return kind(**{name: read[hint](name) for name, hint in get_type_hints(kind).items()})

    def text(self, name: str) -> str:
        """Returns a text."""
        value = self._content.get(name)
        return value if isinstance(value, str) else self._fail(name)

    def flag(self, name: str) -> bool:
        """Returns true or false."""
        value = self._content.get(name)
        return value if isinstance(value, bool) else self._fail(name)

    def number(self, name: str) -> float:
        """Returns a number."""
        return self._number(self._content.get(name), name)

    def count(self, name: str) -> int:
        """Returns a whole number, 1 or more."""
        value = self._content.get(name)
        return value if isinstance(value, int) and 0 < value < 1 << 31 else self._fail(name)

    def entries(self, name: str) -> List[object]:
        """Returns a list that is not empty."""
        value = self._content.get(name)
        return value if isinstance(value, list) and value else self._fail(name)

    def texts(self, name: str) -> List[str]:
        """Returns a list of texts that is not empty."""
        return [entry if isinstance(entry, str) else self._fail(name) for entry in self.entries(name)]

    def pairs(self, name: str) -> List[List[float]]:
        """Returns a list of pairs of numbers."""
        entries = [entry if isinstance(entry, list) else [] for entry in self.entries(name)]
        if any(len(entry) != 2 for entry in entries):
            self._fail(name)
        return [[self._number(value, name) for value in entry] for entry in entries]

    def inside(self, name: str) -> "_Fields":
        """Returns the fields of an object within this one."""
        return _Fields(self._path, self._content.get(name))

    def _number(self, value: object, name: str) -> float:
        return float(value) if isinstance(value, (int, float)) and abs(value) < 1e30 else self._fail(name)

    def _fail(self, name: str) -> NoReturn:
        raise RuntimeFailure("{}: {} is missing or damaged, copy the kit again".format(self._path, name))
