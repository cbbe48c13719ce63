"""One registered function per section kind that writes its ONNX nodes."""
