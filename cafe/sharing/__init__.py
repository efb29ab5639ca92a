"""What leaves the machine: a classifier as one ONNX file, its card, its place on the Hub."""
