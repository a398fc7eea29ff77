"""What a file from outside must be like before it is opened: ONNX, JSON, text."""
