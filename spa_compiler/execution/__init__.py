"""Running models and nodes in onnxruntime: sessions, inputs that a graph can take, work side by side, Ctrl-C."""
