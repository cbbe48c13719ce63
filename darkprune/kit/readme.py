"""The README of a kit: three commands, what to expect, what to do when it fails."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from darkprune.kit.board.runtime.build import BuildOptions
from darkprune.kit.board.runtime.model import Model
from darkprune.kit.deepstream import CFG_NAME, WEIGHTS_NAME
from darkprune.kit.deepstream import ONNX_NAME as DEEPSTREAM_ONNX
from darkprune.kit.schema import ONNX_NAME
from darkprune.targets import Target
from darkprune.tensorrt.trtexec import trtexec_command

_TEXT = """\
# {name} on {boards}

Made by darkprune for the target `{target}`: TensorRT {tensorrt}, Python {python}{jetpack}.
Copy this folder to the board. Nothing has to be installed there: the scripts use what {ships} has.

```
python3 build_engine.py
python3 detect.py picture.jpg
python3 bench.py
```

1. `build_engine.py` builds `model.engine` from `{onnx}` in {precision} and compares it with `reference.npz`, the
   numbers that onnxruntime computed where this kit was made. An engine works only on the board and JetPack that built
   it; `timing.cache` makes the next build faster. `--help` lists the options{calibrate}.
2. `detect.py` takes a picture, a folder, a video, `csi:0` (camera connector) or `usb:0`. `--out DIR` writes pictures
   with boxes, `--json FILE` all detections, `--thresh 0.4` keeps the surer ones, `--show` opens a window. Results that
   are there already are refused; `--overwrite` replaces them.
3. `bench.py` prints the median, the 90th and the 99th percentile of the latency and images per second; `--layers 20`
   the slowest layers; `--image picture.jpg` the whole way from a picture to detections.{clocks}

## Network
Input {width}x{height}, {channels} channels{letterbox}; {classes} classes (`names.txt`); detection heads: {heads};
suppression `{nms}`. Boxes and scores are darknet's. `model.json` describes all of it for programs of your own:
`runtime/detector.py` is the place to start.

## Files
{files}

## When it fails
| message | what to do |
|---|---|
| `tensorrt: Python cannot import it` | `sudo apt install python3-libnvinfer`; no virtual environment |
| `built by TensorRT ...`, `built for ...` | the engine is of another board or JetPack: run `build_engine.py` again |
| killed while building | memory: close the desktop, add swap, `--workspace {small}` |
| `the engine's numbers are off` | `--no-tf32`; if it stays, please report it with TensorRT's version |
| a CSI camera does not open | `sudo systemctl restart nvargus-daemon`; use JetPack's OpenCV, not pip's |

Without Python, NVIDIA's own program builds the same engine, here with the options of TensorRT {newest}:
```
{trtexec}
```
{deepstream}"""

_DEEPSTREAM = """
## DeepStream
`deepstream/` has configuration files for `nvinfer` with the library of github.com/marcoslucianops/DeepStream-Yolo,
built beside them in `nvdsinfer_custom_impl_Yolo/`. Put one's name into `config-file` of `[primary-gie]` in
`deepstream_app_config.txt`:
{which}
"""

_ABOUT = {
    ONNX_NAME: "the network, raw heads",
    "model.json": "what the scripts go by",
    "names.txt": "class names, one per line",
    "calibration.cache": "ranges of all tensors for INT8",
    "reference.npz": "outputs of onnxruntime for a fixed input",
    "build_engine.py": "builds the engine",
    "detect.py": "detects",
    "bench.py": "measures",
    "runtime/": "what the scripts share: engine, CUDA memory, darknet's resize, decoding, suppression",
    "deepstream/": "configuration files for DeepStream",
}


def readme(description: Model, target: Target, files: Collection[str], remarks: Collection[str]) -> str:
    """Returns the text of README.md.

    Args:
        description: of the network.
        target: what the kit is for.
        files: what lies in the kit, relative to it.
        remarks: what the user should know of how it was made.
    """
    parts = [name for name in _ABOUT if name in files or any(file.startswith(name) for file in files if "/" in file)]
    which = []
    if f"deepstream/{CFG_NAME}" in files:
        which.append(f"- `config_infer_darknet.txt` reads `{CFG_NAME}` and `{WEIGHTS_NAME}`")
    if f"deepstream/{DEEPSTREAM_ONNX}" in files:
        which.append(f"- `config_infer_onnx.txt` reads `{DEEPSTREAM_ONNX}`")
    text = _TEXT.format(
        name=description.name,
        boards=target.boards,
        target=target.name,
        tensorrt=" or ".join(target.tensorrt),
        newest=target.tensorrt[0],
        python=" or ".join(target.python),
        jetpack=f" (JetPack {target.jetpack})" if target.jetpack else "",
        ships="JetPack" if target.jetson else "a machine with TensorRT, numpy and OpenCV",
        onnx=ONNX_NAME,
        precision=description.precision.upper(),
        calibrate="; `--calibrate DIR` measures the INT8 ranges on pictures of yours"
        * (description.precision == "int8"),
        clocks="\n   First: `sudo nvpmodel -m 0; sudo jetson_clocks`." if target.jetson else "",
        width=description.input.width,
        height=description.input.height,
        channels=description.input.channels,
        letterbox=", aspect ratio kept" if description.input.letterbox else ", stretched to it",
        classes=len(description.names),
        heads=len(description.heads),
        nms=description.detection.nms,
        files="\n".join(f"- `{name}`: {_ABOUT[name]}" for name in parts),
        small=max(target.workspace_mb // 2, 128),
        trtexec=_trtexec(description, target, "calibration.cache" in files),
        deepstream=_DEEPSTREAM.format(which="\n".join(which)) if which else "",
    )
    return text + "".join(f"\nNote: {remark}\n" for remark in remarks)


def _trtexec(description: Model, target: Target, calibrated: bool) -> str:
    options = BuildOptions(
        precision=description.precision,
        workspace_mb=target.workspace_mb,
        calibration_cache="calibration.cache" if calibrated else "",
    )
    return trtexec_command(target, Path(ONNX_NAME), Path("model.engine"), options)
