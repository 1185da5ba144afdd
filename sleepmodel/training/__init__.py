"""The training loop: one process, torch alone."""
