"""From a Darknet graph to an ONNX file, checked."""
