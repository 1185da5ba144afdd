"""Ray Train, DeepSpeed and Ray Tune around the training loop."""
