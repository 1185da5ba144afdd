"""Typed, frozen configs. Each validates its fields when it is created."""
