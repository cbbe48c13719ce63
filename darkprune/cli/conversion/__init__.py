"""Commands for converting a network to ONNX, TensorRT and a folder for a board."""
