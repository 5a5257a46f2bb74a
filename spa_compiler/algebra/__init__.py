"""Axes as types: dims, products and sums of them, masks over them, and sizes for every binding. No ONNX in here."""
