"""From a Darknet graph to ONNX, TensorRT engines and a kit; only this package imports onnx or tensorrt."""
