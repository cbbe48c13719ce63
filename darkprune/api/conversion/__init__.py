"""Functions for the board: ONNX files, TensorRT engines, kits."""
