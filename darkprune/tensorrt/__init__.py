"""TensorRT targets, what their parsers read, engines."""
