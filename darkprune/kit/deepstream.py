"""Configuration files for NVIDIA DeepStream with the DeepStream-Yolo library, for the pair and for the ONNX file.

Source: marcoslucianops/DeepStream-Yolo 2ccf5299, config_infer_primary.txt (Darknet) and config_infer_primary_yoloV7.txt
(ONNX); its parser reads one output (batch, boxes, 6): left, top, right, bottom in pixels of the input, score, class.
"""

from __future__ import annotations

from darkprune.kit.board.runtime.model import Model

CFG_NAME = "model.cfg"
WEIGHTS_NAME = "model.weights"
ONNX_NAME = "model-deepstream.onnx"
CONFIGS = ("config_infer_darknet.txt", "config_infer_onnx.txt")  #: for the pair, for the ONNX file
_MODES = {"fp32": 0, "int8": 1, "fp16": 2}

_TEMPLATE = """\
# {title}
# Needs libnvdsinfer_custom_impl_Yolo.so of github.com/marcoslucianops/DeepStream-Yolo, built for this DeepStream.
# DeepStream builds the engine itself on the first start. One class per box: where darknet reports a box under two
# classes, DeepStream reports the better one; and its NMS compares plain IoU.
[property]
gpu-id=0
net-scale-factor=0.0039215697906911373
model-color-format={colour}
{network}
model-engine-file={engine}_b1_gpu0_{precision}.engine
{calibration}labelfile-path=../names.txt
batch-size=1
network-mode={mode}
num-detected-classes={classes}
interval=0
gie-unique-id=1
process-mode=1
network-type=0
cluster-mode=2
maintain-aspect-ratio={letterbox}
symmetric-padding=1
workspace-size={workspace}
parse-bbox-func-name=NvDsInferParseYolo
custom-lib-path=nvdsinfer_custom_impl_Yolo/libnvdsinfer_custom_impl_Yolo.so
engine-create-func-name=NvDsInferYoloCudaEngineGet

[class-attrs-all]
nms-iou-threshold={nms}
pre-cluster-threshold={threshold}
topk=300
"""


def for_pair(description: Model) -> str:
    """Returns the configuration with which DeepStream-Yolo reads the .cfg and .weights themselves."""
    network = f"custom-network-config={CFG_NAME}\nmodel-file={WEIGHTS_NAME}\nforce-implicit-batch-dim=0"
    # its tensors have names of their own, so a calibration cache made from the ONNX file says nothing about them
    return _fill(description, "DeepStream for the Darknet pair", network, "model", False)


def for_onnx(description: Model, calibrated: bool) -> str:
    """Returns the configuration for an ONNX file of the `deepstream` output form."""
    title = "DeepStream for the ONNX file"
    return _fill(description, title, f"onnx-file={ONNX_NAME}", ONNX_NAME, calibrated)


def _fill(description: Model, title: str, network: str, engine: str, calibrated: bool) -> str:
    """Fills in the template; `engine` is the start of the name under which DeepStream keeps what it builds."""
    # INT8 without a table fails in DeepStream; FP16 is the next best
    precision = "fp16" if description.precision == "int8" and not calibrated else description.precision
    return _TEMPLATE.format(
        title=f"{title}: {description.name}",
        colour=0 if description.input.channels == 3 else 2,
        network=network,
        engine=engine,
        precision=precision,
        calibration="int8-calib-file=../calibration.cache\n" if precision == "int8" else "",
        mode=_MODES[precision],
        classes=len(description.names),
        letterbox=int(description.input.letterbox),
        workspace=description.workspace_mb,
        nms=description.detection.nms_threshold,
        threshold=description.detection.threshold,
    )
