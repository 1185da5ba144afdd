"""Training: batches, curriculum, optimisers, and the loop itself. Needs only torch."""
