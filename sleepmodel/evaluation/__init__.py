"""Accuracy of a trained model with its intervals, and its cost at inference."""
