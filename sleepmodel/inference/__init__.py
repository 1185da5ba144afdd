"""Inference: sessions that read, sleep and generate, their memory, and a terminal."""
