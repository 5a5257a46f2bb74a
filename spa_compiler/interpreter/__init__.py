"""Running a graph node by node on many inputs, and two graphs side by side."""
