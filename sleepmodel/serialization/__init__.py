"""Models and tensors as files."""
